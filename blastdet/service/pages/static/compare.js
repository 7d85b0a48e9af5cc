/* Two smears side by side: images at one scale, differentials, cells by type. */
"use strict";

import { byId, call, make, number, numbers, page, t } from "./api.js";
import { makeCells } from "./cells.js";
import { thumbOf } from "./thumb.js";
import { makeViewer } from "./viewer.js";

const NAMES = ["left", "right"], SHOWN = 40; // cells of a type

async function side(k) {
  const name = NAMES[k], smear = page.sides[k], missing = new Map();
  const { json: data } = await call("GET", "/analyses/" + smear.last_analysis + "/view");
  Object.assign(data, data.now, { language: page.language, texts: page.texts });
  for (const kind of data.kinds) kind.title = t(kind.title);
  const find = (id) => byId(name + "-" + id) || missing.get(id) || missing.set(id, make("div")).get(id);
  const cells = makeCells(data);
  cells.restore(cells.fromRows(data.corrections));
  cells.locked = true;
  const viewer = makeViewer(cells, find);
  cells.say(byId(name + "-lead"), data.lead + " " + cells.images[0].about);
  cells.say(byId(name + "-unknown"), data.unknown);
  byId(name + "-unknown").hidden = !data.unknown;
  byId(name + "-sentences").append(make("h3", smear.name), ...data.sentences.map((text) => cells.say(make("p"), text)));
  return { name, data, cells, viewer };
}

function differentials(sides) {
  const rows = sides.map(({ data }) => new Map((data.differential ? data.differential.rows : []).map((row) => [row.kind, row])));
  const { KINDS, KIND } = sides[0].cells, kinds = [...new Set(rows.flatMap((some) => [...some.keys()]))];
  byId("both").replaceChildren(...kinds.map((kind) => {
    const line = make("tr"), head = make("th"), dot = make("i"), pair = rows.map((some) => some.get(kind));
    head.scope = "row";
    dot.style.background = KINDS[KIND[kind]].colour;
    head.append(dot, KINDS[KIND[kind]].title);
    line.append(head);
    for (const row of pair) line.append(make("td", row ? number(row.n) : "–", "first"), make("td", row ? numbers.figures(row.percent) : "–"), make("td", row ? numbers.figures(row.ci) : "–"));
    const known = pair.every((row) => row && row.value !== null);
    const apart = known && (pair[0].high < pair[1].low || pair[1].high < pair[0].low);
    line.append(make("td", !known ? "–" : apart ? t("apart") : t("overlap"), "first"));
    return line;
  }));
}

function galleries(sides) {
  const { KINDS } = sides[0].cells;
  byId("types").replaceChildren(...KINDS.map((kind, index) => {
    if (!kind.white) return "";
    const found = sides.map(({ cells }) => cells.images[0].kind.flatMap((at, row) => (at === index ? [row] : [])));
    if (!found[0].length && !found[1].length) return "";
    const section = make("section", "", "card"), head = make("h3"), dot = make("i"), pair = make("div", "", "pair");
    dot.style.background = kind.colour;
    head.append(dot, kind.title);
    pair.append(...sides.map((one, k) => {
      const place = make("div", "", "cells");
      place.append(make("small", number(found[k].length), "count"), ...found[k].slice(0, SHOWN).map((row) => cell(one, row, kind)));
      return place;
    }));
    section.append(head, pair);
    return section;
  }).filter(Boolean));
}

function cell({ name, cells, viewer }, row, kind) {
  const made = make("button", "", "cell");
  made.type = "button";
  made.style.setProperty("--type", kind.colour);
  made.append(thumbOf(cells, 0, row));
  made.setAttribute("aria-label", kind.title + ", " + cells.describe(0, row).join(", "));
  made.onclick = () => { viewer.open(0, row); byId(name + "-viewer").scrollIntoView({ block: "nearest" }); };
  return made;
}

function bind(sides) {
  const together = byId("together"), viewers = sides.map((one) => one.viewer);
  let matching = false;
  const coarsest = () => { const scale = Math.min(...viewers.map((one) => one.scale)); for (const one of viewers) one.match(scale); };
  /* One scale: both go as far out as the larger image needs, and as far in as both can. */
  const share = () => {
    const ranges = viewers.map((one) => one.range), limits = [Math.min(...ranges.map(([low]) => low)), Math.min(...ranges.map(([, high]) => high))];
    for (const one of viewers) one.limits = together.checked ? limits : null;
    if (together.checked) coarsest();
  };
  for (const [k, { name, cells, viewer }] of sides.entries()) {
    const other = sides[1 - k].viewer, zoom = (factor) => viewer.zoom(factor);
    cells.onZoom = () => { // by button, key, wheel, fingers, or to a cell
      if (matching || !together.checked || !other.isOpen()) return;
      matching = true;
      other.match(viewer.scale);
      matching = false;
    };
    byId(name + "-in").onclick = () => zoom(1.25);
    byId(name + "-out").onclick = () => zoom(0.8);
    byId(name + "-fit").onclick = () => { if (!together.checked) { viewer.fit(); return; } for (const one of viewers) one.fit(); coarsest(); };
    byId(name + "-boxes").onclick = () => { viewer.boxes = !viewer.boxes; };
    const stage = byId(name + "-stage");
    stage.addEventListener("keydown", (event) => {
      const pans = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] };
      const keys = { "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), f: () => byId(name + "-fit").click(), b: () => byId(name + "-boxes").click() };
      const run = pans[event.key] ? () => viewer.pan(...pans[event.key]) : keys[event.key.toLowerCase()];
      if (run && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); run(); }
    });
    viewer.open(0);
    document.querySelector(`figure[data-of="${name}-"]`).corners = () => [viewer.place(0, 0), viewer.place(cells.images[0].width, cells.images[0].height)];
    if (!cells.images[0].mpp) together.checked = false;
    new ResizeObserver(share).observe(stage); // what an image needs depends on its window
  }
  together.onchange = share;
  share();
}

Promise.all([side(0), side(1)]).then((sides) => {
  differentials(sides);
  galleries(sides);
  bind(sides);
  Object.assign(window, { sides }); // for the console
  document.body.dataset.ready = "yes";
}).catch((error) => { byId("fault").textContent = error.message; throw error; });
