/* The page: differential, gallery of cells, images, and the keys. */
"use strict";

import { makeCells } from "./cells.js";
import { thumbOf } from "./thumb.js";
import { makeViewer } from "./viewer.js";

/* `byId` finds the elements of the page. `keeper` keeps corrections, see `keepInBrowser`. With `inline` the image stays
   open beside the gallery. */
export function startPage(DATA, { byId, keeper, inline = false }) {
  const cells = makeCells(DATA), viewer = makeViewer(cells, byId);
  const { KINDS, KIND, BY_KEY, UNSURE, IGNORED, GONE, corrections, past, images, annotates, correctionAt, isCell, correct, confirmImage, undo, exported, progress, describe, doubt, printed, t, numbers, say, count } = cells;
  const SHOWN = 120, SHEET = 40, ROW = 7; // cells of a group at first; on a sheet of paper; in a row of it
  let more = {}; // group -> cells shown
  let onPaper = false;
  let view = DATA.views ? (DATA.views.find((one) => one.cells.length) || DATA.views[0]).name : "";
  let order = "doubt", picked = new Set(), anchor = null, groups = [], queue = [];

  const make = (tag, text = "", kind = "") => { const made = document.createElement(tag); if (text !== "") made.textContent = text; if (kind) made.className = kind; return made; };
  const id = (i, row) => i + "/" + row;
  const parse = (text) => text.split("/").map(Number);
  const inViewer = () => (inline ? byId("viewer").contains(document.activeElement) : viewer.isOpen());

  /* Groups of the gallery: the view of a review, or the white cells by type, the doubtful ones first. */
  function grouped() {
    if (DATA.views) {
      const one = DATA.views.find((other) => other.name === view);
      return [{ name: one.name, title: one.title, cells: one.cells }];
    }
    const found = KINDS.map(() => []);
    for (const image of images) for (let row = 0; row < image.kind.length; row++) if (KINDS[image.kind[row]].white) found[image.kind[row]].push([image.i, row]);
    const sign = order === "doubt" ? -1 : 1;
    const first = [...KINDS.keys()].sort((a, b) => (a === UNSURE ? -1 : 0) - (b === UNSURE ? -1 : 0));
    return first.filter((kind) => found[kind].length).map((kind) => {
      const cells = found[kind];
      if (order === "image") cells.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
      else cells.sort((a, b) => sign * (doubt(images[a[0]], a[1]) - doubt(images[b[0]], b[1])) || a[0] - b[0] || a[1] - b[1]);
      return { name: KINDS[kind].name, title: KINDS[kind].title, colour: KINDS[kind].colour, cells };
    });
  }

  function card([i, row]) {
    const image = images[i], kind = KINDS[image.kind[row]], made = make("button", "", "cell");
    made.type = "button";
    made.dataset.cell = id(i, row);
    const now = correctionAt(i, row), p = printed(image, row);
    const isTyped = row >= image.base || image.kind[row] === UNSURE || (image.p && Number.isFinite(image.p[row]));
    made.style.setProperty("--type", kind.colour);
    made.setAttribute("aria-pressed", String(picked.has(id(i, row))));
    if (now) made.classList.add("done");
    if (image.kind[row] === UNSURE) made.classList.add("unsure");
    const figure = now ? "✓" : p !== null ? numbers.short(p) : !isTyped && image.score ? numbers.decimal(image.score[row], 2) : "";
    const words = make("span", "", "words");
    words.append(make("b", DATA.views ? kind.title : kind.name === "unsure" ? guess(image, row) : figure), make("span", DATA.views || kind.name === "unsure" ? figure : now ? "" : rival(image, row), "p"));
    made.append(thumbOf(cells, i, row), words);
    if (DATA.views) made.append(make("small", (image.text && image.text[row]) || ""));
    made.title = [image.name, kind.title, ...describe(i, row)].join("\n");
    made.setAttribute("aria-label", kind.title + ", " + describe(i, row).join(", ") + ", " + image.name);
    return made;
  }

  /* The second likeliest type, where it is likely at all. */
  function rival(image, row) {
    const likely = row < image.base && image.likely ? image.likely[row] : null;
    const other = likely ? likely.find(([name]) => KIND[name] !== image.kind[row]) : null;
    return other && other[1] >= 0.12 ? t("or {type}", { type: KINDS[KIND[other[0]]].title }) : "";
  }

  const guess = (image, row) => (image.unlike && image.unlike.includes(row) ? t("unlike") : image.likely && image.likely[row] ? KINDS[KIND[image.likely[row][0][0]]].title + "?" : t("unsure"));

  function gallery() {
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.cell : "";
    groups = grouped();
    queue = groups.flatMap((group) => group.cells);
    byId("groups").replaceChildren(...groups.map((group) => {
      const section = make("section", "", "group"), head = make("h3"), cells = make("div", "", "cells");
      if (group.colour) { const dot = make("i"); dot.style.background = group.colour; head.append(dot); }
      const limit = more[group.name] || SHOWN, n = group.cells.length;
      head.append(make("span", group.title), make("small", onPaper && n > limit ? t("{n} of {all}", { n: count(limit), all: count(n) }) : count(n)));
      cells.append(...group.cells.slice(0, limit).map(card));
      section.append(head, cells);
      if (group.cells.length > limit) {
        const button = make("button", t("Show {n} more of {all}", { n: Math.min(group.cells.length - limit, 480), all: count(group.cells.length) }), "more");
        button.onclick = () => { more[group.name] = limit + 480; gallery(); };
        section.append(button);
      }
      return section;
    }));
    byId("empty").hidden = queue.length > 0;
    const target = focused && document.querySelector('[data-cell="' + focused + '"]');
    if (target) target.focus({ preventScroll: true });
    status();
  }

  function status() {
    const [done, all] = progress();
    byId("bar-fill").style.width = all ? (100 * done) / all + "%" : "0";
    byId("done").textContent = t("{n} of {all} reviewed", { n: count(done), all: count(all) });
    byId("done2").textContent = byId("done").textContent;
    byId("count").textContent = corrections.size;
    byId("export").disabled = !corrections.size;
    if (picked.size) unhint();
    byId("undo").disabled = byId("undo2").disabled = !past.length;
    bar();
    if (DATA.differential) corrected();
  }

  /* The types for the cells that are picked; beside an open image for the one that is framed, where a style shows it. */
  function bar() {
    const one = inline && !picked.size && !cells.locked && viewer.isOpen() && viewer.row >= 0 ? viewer.row : -1;
    byId("bulk").hidden = picked.size === 0 && one < 0;
    byId("bulk").classList.toggle("single", one >= 0);
    document.body.classList.toggle("chosen", !byId("bulk").hidden);
    byId("picked").textContent = one >= 0 ? KINDS[viewer.image.kind[one]].title : picked.size === 1 ? t("1 cell") : t("{n} cells", { n: count(picked.size) });
  }

  /* Counts as corrected, beside what the model counted; no fraction, whatever the stain. Where `DATA.corrected` says
     whether they are, all figures come with the data, and change together. */
  function corrected() {
    if (DATA.corrected !== undefined) { document.body.classList.toggle("corrected", DATA.corrected); return; }
    const used = corrections.size > 0, all = used || DATA.differential.model, counts = KINDS.map(() => 0);
    if (all) for (const image of images) for (const kind of image.kind) if (kind !== GONE && kind !== IGNORED) counts[kind]++;
    for (const cell of document.querySelectorAll("[data-corrected]")) cell.textContent = all ? count(counts[KIND[cell.dataset.corrected]]) : "";
    document.body.classList.toggle("corrected", used);
  }

  function differential() {
    const found = DATA.differential;
    if (!found) return;
    const body = byId("rows");
    body.replaceChildren();
    for (const row of found.rows) {
      const line = make("tr"), name = make("th"), dot = make("i"), bar = make("td", "", "bar"), kind = KINDS[KIND[row.kind]];
      dot.style.background = kind.colour;
      name.scope = "row";
      name.append(dot, kind.title);
      if (row.value !== null) {
        const box = make("div"), fill = make("span"), range = make("em");
        fill.style.width = 100 * row.value + "%"; fill.style.background = kind.colour;
        range.style.left = 100 * row.low + "%"; range.style.width = 100 * (row.high - row.low) + "%";
        box.append(fill, range);
        bar.append(box);
      }
      const n = make("td", count(row.n)), other = make("td", "", found.model ? "was" : "now");
      if (DATA.corrected === undefined) (found.model ? n : other).dataset.corrected = row.kind;
      if (found.model) other.textContent = count(found.model[row.kind] || 0); // `n` is as corrected then
      line.append(name, n, other, make("td", numbers.figures(row.percent), "share"), make("td", numbers.figures(row.ci), "share"), bar);
      body.append(line);
    }
    document.body.classList.toggle("numbersonly", Boolean(found.why));
    say(byId("why"), found.why);
    say(byId("progress"), found.progress);
    byId("meter").style.width = Math.min(100, (100 * found.n) / found.of) + "%";
    byId("beside").replaceChildren(...found.beside.map((text) => say(make("li"), text)));
  }

  function texts() {
    document.title = DATA.title;
    byId("title").textContent = DATA.heading;
    for (const place of document.querySelectorAll("[data-notice]")) place.textContent = DATA.notice;
    say(byId("unknown"), DATA.unknown);
    byId("unknown").hidden = !DATA.unknown;
    say(byId("lead"), DATA.lead || "");
    byId("sentences").replaceChildren(...DATA.sentences.map((text) => say(make("p"), text)));
    byId("remarks").replaceChildren(...DATA.remarks.map((text) => say(make("li"), text)));
    byId("remarks").hidden = !DATA.remarks.length;
    byId("method").replaceChildren(...DATA.method.map((text) => say(make("li"), text)));
    byId("summary").hidden = !DATA.differential && !DATA.counts.length;
    byId("differential").hidden = !DATA.differential;
    byId("totals").replaceChildren(...DATA.counts.map((row) => { const line = make("tr"); const name = make("th", t(row[0])); name.scope = "row"; line.append(name, ...row.slice(1).map((n) => make("td", count(n)))); return line; }));
    byId("sort").hidden = Boolean(DATA.views);
  }

  function imageTable() {
    byId("images").replaceChildren(...images.map((image) => {
      const line = make("tr"), first = make("th"), button = make("button", image.name, "link");
      first.scope = "row";
      button.type = "button";
      button.onclick = () => go(image.i, -1);
      first.append(button);
      line.append(first, ...image.row.map((text) => make("td", String(text))), make("td", [image.about, ...image.notes].filter(Boolean).join("; "), "note"));
      return line;
    }));
    byId("imagehead").replaceChildren(make("th", "image"), ...DATA.columns.map((name) => make("th", name)), make("th", "scale, notes"));
    byId("name").replaceChildren(...(DATA.worst || images.map((image) => image.i)).map((i) => new Option(images[i].name + (images[i].errors === undefined ? "" : " (" + images[i].errors + (images[i].errors === 1 ? " error)" : " errors)")), i)));
    if (DATA.repeated && DATA.repeated.length) {
      const group = make("optgroup");
      group.label = "Repeated fields";
      for (const i of DATA.repeated) group.append(new Option(images[i].name, i));
      byId("name").append(group);
    }
  }

  function views() {
    if (!DATA.views) return;
    byId("views").replaceChildren(...DATA.views.map((one) => {
      const button = make("button", one.title[0].toUpperCase() + one.title.slice(1) + " (" + one.cells.length + ")");
      button.type = "button";
      button.dataset.view = one.name;
      button.setAttribute("aria-pressed", String(one.name === view));
      button.onclick = () => { view = one.name; picked.clear(); views(); gallery(); };
      return button;
    }));
  }

  function kindButtons(place, apply) {
    byId(place).replaceChildren(...KINDS.filter((kind) => kind.key).map((kind) => {
      const button = make("button"), dot = make("i");
      button.type = "button";
      button.dataset.kind = kind.name;
      dot.style.background = kind.colour;
      button.append(make("kbd", kind.key.toUpperCase()), dot, make("span", kind.title));
      button.onclick = () => apply("class", kind.name);
      return button;
    }));
  }

  /* The key of each type, for the help. */
  function keyNames() {
    byId("keytypes").replaceChildren(...KINDS.filter((kind) => kind.key).map((kind) => {
      const line = make("li");
      line.append(make("kbd", kind.key.toUpperCase()), " " + kind.title);
      return line;
    }));
  }

  /* Where the page is: #image/cell, so that the browser's Back closes the viewer. */
  function go(i, row) { location.hash = row >= 0 ? id(i, row) : String(i); }

  function route() {
    const found = /^#(\d+)(?:\/(\d+))?$/.exec(location.hash);
    if (found && images[found[1]]) {
      const row = found[2] === undefined || Number(found[2]) >= images[found[1]].kind.length ? -1 : Number(found[2]);
      viewer.open(Number(found[1]), row);
      byId("stage").focus({ preventScroll: true });
    } else if (!inline && viewer.isOpen()) {
      const last = viewer.image.i + "/" + viewer.row;
      viewer.close();
      gallery();
      const cell = document.querySelector('[data-cell="' + last + '"]');
      if (cell) cell.focus();
    }
  }

  const tell = (text) => { byId("saved").textContent = text; };
  const noneSelected = t("No cell is selected: click one first."), uncertain = t("This cell is uncertain: give it a type first."), asItWas = t("This cell is as it was before. Z takes the last step back.");
  const hint = () => { if (inViewer() || inline) byId("fault").textContent = noneSelected; if (!inViewer()) tell(noneSelected); };
  const unhint = () => { for (const place of ["fault", "saved"]) if ([noneSelected, uncertain, asItWas].includes(byId(place).textContent)) byId(place).textContent = ""; };
  const leave = () => {
    if (inline) { const cell = document.querySelector('[data-cell="' + id(viewer.image.i, viewer.row) + '"]'); if (cell) cell.focus(); return; }
    history.replaceState(null, "", location.pathname + location.search);
    route();
  };

  const cardOf = (i, row) => document.querySelector('[data-cell="' + id(i, row) + '"]');
  const reach = (i, row) => { history.replaceState(null, "", "#" + id(i, row)); viewer.open(i, row); };

  /* The next or previous cell in the order of the gallery. */
  function step(by) {
    const here = viewer.image.i, row = viewer.row;
    let at = queue.findIndex(([i, other]) => i === here && other === row);
    if (at < 0) at = by > 0 ? queue.findIndex(([i]) => i === here) - 1 : queue.findIndex(([i]) => i === here) + 1;
    for (let next = at + by; next >= 0 && next < queue.length; next += by) {
      const [i, other] = queue[next];
      if (isCell(images[i], other) || DATA.views) { reach(i, other); return; }
    }
  }

  /* All cells after one, in the order of the gallery. */
  function after(i, row) {
    let at = queue.findIndex(([j, other]) => j === i && other === row);
    if (at < 0) at = queue.findIndex(([j]) => j === i) - 1; // not in the gallery: from the first one of its image
    return at < -1 ? [] : queue.slice(at + 1);
  }

  /* Whether a cell was not reviewed yet. */
  const waits = ([i, row]) => (isCell(images[i], row) || DATA.views) && !correctionAt(i, row);

  function stepImage(by) {
    const i = viewer.image.i + by;
    if (images[i]) { history.replaceState(null, "", "#" + i); viewer.open(i); }
  }

  /* Correct the cells that are selected here, and go on to the next one that was not reviewed. */
  function apply(op, kind = "") {
    if (inViewer()) {
      const some = viewer.cells();
      if (!some.length && op === "forget") { withdraw(); return; }
      if (!some.length) { hint(); return; }
      const left = op === "ok" ? untyped(some) : "", rest = after(...some[0]); // a correction may move a cell in the gallery
      const made = correct(some, op, kind);
      if (!made && op === "forget") byId("fault").textContent = asItWas;
      if (left) byId("fault").textContent = left;
      const goesOn = some.length === 1 && !left && op !== "forget" && byId("advance").checked, next = goesOn && rest.find(waits);
      if (next) reach(...next); else viewer.panel();
      return;
    }
    const chosen = selected();
    if (!chosen.length && op === "forget") { withdraw(); return; }
    if (!chosen.length) { hint(); return; }
    const left = op === "ok" ? untyped(chosen) : "", rest = after(...chosen[chosen.length - 1]);
    const some = correct(chosen, op, kind), done = some || (op !== "forget" && !cells.locked && chosen.every((one) => correctionAt(...one)));
    if (done) { unhint(); picked.clear(); gallery(); }
    if (left) tell(left);
    if (!some && op === "forget") tell(asItWas);
    const next = done ? rest.find((one) => waits(one) && cardOf(...one)) : null;
    if (next) cardOf(...next).focus();
    if (next && inline) viewer.open(...next);
    if (done && !next) stay(chosen[chosen.length - 1]);
  }

  /* The cells that a key in the gallery is for: those picked, the one with the focus, or the one framed beside the image. */
  function selected() {
    if (picked.size) return [...picked].map(parse);
    const on = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.cell : "";
    if (on) return [parse(on)];
    return inline && viewer.row >= 0 ? [[viewer.image.i, viewer.row]] : [];
  }

  /* After the last cell, the focus stays with it; where it is no longer in the gallery, with its place in the image. */
  function stay(cell) {
    const card = cardOf(...cell);
    if (inline) viewer.open(...cell);
    if (card) card.focus();
    else if (inline) byId("stage").focus({ preventScroll: true });
    else { const all = document.querySelectorAll("[data-cell]"), last = all[all.length - 1]; if (last) last.focus(); }
  }

  /* What to do about the uncertain ones of some cells; empty where there are none. */
  function untyped(some) {
    const n = some.filter(([i, row]) => images[i].kind[row] === UNSURE).length;
    if (n === 1 && some.length === 1) return uncertain;
    return n === 0 ? "" : n === 1 ? t("1 uncertain cell is left: give it a type.") : t("{n} uncertain cells are left: give each a type.", { n: count(n) });
  }

  function confirmHere() {
    const i = viewer.image.i, open = confirmImage(i, viewer.shown);
    byId("fault").textContent = open ? untyped([...images[i].kind.keys()].map((row) => [i, row])) : confirmed(i);
    const left = open ? [...images[i].kind.keys()].find((row) => images[i].kind[row] === UNSURE) : -1;
    if (left >= 0) viewer.choose([left]);
  }

  /* Which classes are complete now; a class of which something is hidden is not. */
  function confirmed(i) {
    if (DATA.mode === "review") return t("Image confirmed.");
    const done = DATA.classes.filter((name) => corrections.has(annotates(i, name)));
    const words = { wbc: t("white cells"), blast: t("blasts"), rbc: t("red cells"), platelet: t("platelets") };
    return done.length ? t("Image confirmed. Complete: {classes}.", { classes: done.map((name) => words[name] || name).join(", ") }) : t("Confirmed what is shown. No class is complete.");
  }

  /* Undo, and go back to the cell that was changed: the next key is for the one that is shown. */
  function withdraw() {
    const beside = inViewer(), [first] = undo();
    if (!first || first[2] < 0) return;
    const [, i, row] = first, card = cardOf(i, row);
    if (viewer.isOpen()) { if (isCell(images[i], row) || row < images[i].base) reach(i, row); else viewer.choose([]); }
    if (beside) return;
    if (card) card.focus(); else if (inline) byId("stage").focus({ preventScroll: true });
  }

  cells.onChoose = (i, row) => {
    if (row >= 0) unhint();
    if (!inline) return;
    bar();
    for (const one of document.querySelectorAll("[data-cell][aria-current]")) one.removeAttribute("aria-current");
    const cell = row >= 0 && document.querySelector('[data-cell="' + id(i, row) + '"]');
    if (cell) cell.setAttribute("aria-current", "true");
  };
  cells.onChange = () => {
    if (viewer.isOpen()) { viewer.redraw(); viewer.panel(); }
    if (inline || !viewer.isOpen()) gallery(); else status();
  };

  function pick(cell, event) {
    const name = cell.dataset.cell;
    if (event.shiftKey && anchor) {
      const all = [...document.querySelectorAll("[data-cell]")].map((one) => one.dataset.cell);
      const [from, to] = [all.indexOf(anchor), all.indexOf(name)].sort((a, b) => a - b);
      for (const one of all.slice(Math.max(from, 0), to + 1)) picked.add(one);
    } else if (picked.has(name)) picked.delete(name); else picked.add(name);
    anchor = name;
    for (const one of document.querySelectorAll("[data-cell]")) one.setAttribute("aria-pressed", String(picked.has(one.dataset.cell)));
    status();
  }

  byId("groups").addEventListener("click", (event) => {
    const cell = event.target.closest("[data-cell]");
    if (!cell) return;
    if (event.shiftKey || event.ctrlKey || event.metaKey) pick(cell, event);
    else if (!inline) go(...parse(cell.dataset.cell));
    else {
      viewer.open(...parse(cell.dataset.cell));
      if (event.detail === 0) byId("stage").focus({ preventScroll: true }); // by key
    }
  });

  /* Arrow keys go from cell to cell; up and down by what is above and below on the screen. */
  function wander(cell, key) {
    const all = [...document.querySelectorAll("[data-cell]")], at = all.indexOf(cell);
    if (key === "ArrowLeft" || key === "ArrowRight") return all[at + (key === "ArrowRight" ? 1 : -1)];
    const from = cell.getBoundingClientRect(), down = key === "ArrowDown";
    const rest = down ? all.slice(at + 1) : all.slice(0, at).reverse();
    const line = rest.find((one) => { const box = one.getBoundingClientRect(); return down ? box.top > from.bottom - 4 : box.bottom < from.top + 4; });
    if (!line) return null;
    const top = line.getBoundingClientRect().top;
    const row = rest.filter((one) => Math.abs(one.getBoundingClientRect().top - top) < 4);
    return row.sort((a, b) => Math.abs(a.getBoundingClientRect().left - from.left) - Math.abs(b.getBoundingClientRect().left - from.left))[0];
  }

  const COMMON = { Delete: () => apply("delete"), Backspace: () => apply("delete"), i: () => apply("ignore"), o: () => apply("ok"), u: () => apply("forget"), z: withdraw, "?": () => byId("keys").showModal() };
  const IN_VIEWER = {
    Escape: () => { if (viewer.drawing) viewer.draw(""); else if (viewer.cells().length > 1) viewer.choose([]); else leave(); },
    "+": () => viewer.zoom(1.25), "=": () => viewer.zoom(1.25), "-": () => viewer.zoom(0.8), f: viewer.fit,
    b: () => { viewer.boxes = !viewer.boxes; }, h: () => viewer.toggle("rbc"), d: () => viewer.draw(viewer.row >= 0 ? KINDS[viewer.image.kind[viewer.row]].name : "wbc"),
    Enter: confirmHere, PageDown: () => stepImage(1), PageUp: () => stepImage(-1), ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
  };

  document.addEventListener("keydown", (event) => {
    const on = event.target;
    if (document.querySelector("dialog[open]") || on.matches("select, textarea, input:not([type=checkbox]):not([type=range])")) return;
    const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((event.ctrlKey || event.metaKey || event.altKey) && !(letter === "z" && !event.altKey)) return;
    let run = null;
    if (BY_KEY[letter]) run = () => apply("class", BY_KEY[letter]);
    else if (inViewer()) {
      if (event.shiftKey && letter.startsWith("Arrow")) run = () => viewer.pan({ ArrowLeft: 80, ArrowRight: -80 }[letter] || 0, { ArrowUp: 80, ArrowDown: -80 }[letter] || 0);
      else if (on.matches("input[type=range]") && letter.startsWith("Arrow")) return;
      else if (letter === "Enter" && on.matches("button, input")) return;
      else run = IN_VIEWER[letter] || COMMON[letter];
    } else {
      const cell = on.closest && on.closest("[data-cell]");
      const isFree = inline && !on.matches("input, summary"); // wherever the focus is: beside the image a cell is selected, or none yet
      const from = cell || (isFree && viewer.row >= 0 ? cardOf(viewer.image.i, viewer.row) : null), first = isFree ? document.querySelector("[data-cell]") : null;
      if ((from || first) && letter.startsWith("Arrow")) run = () => { const next = from ? wander(from, letter) : first; if (!next) return; next.focus(); next.scrollIntoView({ block: "nearest" }); if (event.shiftKey) pick(next, { shiftKey: true }); else if (inline) viewer.open(...parse(next.dataset.cell)); };
      else if (cell && letter === " ") run = () => pick(cell, event);
      else if (letter === "Escape") run = () => { if (viewer.drawing) viewer.draw(""); picked.clear(); gallery(); };
      else if (!/^(Delete|Backspace)$/.test(letter) || cell || picked.size) run = COMMON[letter];
    }
    if (run) { event.preventDefault(); run(); }
  });

  byId("close").onclick = leave;
  byId("fit").onclick = viewer.fit;
  byId("in").onclick = () => viewer.zoom(1.25);
  byId("out").onclick = () => viewer.zoom(0.8);
  byId("boxes").onclick = () => { viewer.boxes = !viewer.boxes; };
  byId("before").onclick = () => stepImage(-1);
  byId("after").onclick = () => stepImage(1);
  byId("previous").onclick = () => step(-1);
  byId("next").onclick = () => step(1);
  byId("confirm").onclick = confirmHere;
  byId("name").onchange = () => { history.replaceState(null, "", "#" + byId("name").value); viewer.open(Number(byId("name").value)); byId("stage").focus(); };
  byId("undo").onclick = byId("undo2").onclick = withdraw;
  byId("draw").append(...KINDS.filter((kind) => kind.key).map((kind) => new Option(kind.title, kind.name)));
  byId("draw").onchange = () => { viewer.draw(byId("draw").value); byId("stage").focus(); };
  for (const button of document.querySelectorAll("[data-op]")) button.onclick = () => apply(button.dataset.op);
  byId("nothing").onclick = () => { if (byId("bulk").classList.contains("single")) viewer.choose([]); picked.clear(); gallery(); };
  byId("help").onclick = byId("help2").onclick = () => byId("keys").showModal();
  byId("print").onclick = () => window.print();
  byId("order").onchange = () => { order = byId("order").value; gallery(); };
  const light = () => {
    const [contrast, brightness] = [byId("contrast").value, byId("brightness").value];
    viewer.filter = contrast === "100" && brightness === "100" ? "" : "contrast(" + contrast + "%) brightness(" + brightness + "%)";
  };
  byId("contrast").oninput = byId("brightness").oninput = light;
  byId("plain").onclick = () => { byId("contrast").value = byId("brightness").value = 100; light(); };
  byId("size").oninput = () => document.documentElement.style.setProperty("--thumb", byId("size").value + "px");
  byId("export").onclick = () => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([exported()], { type: "application/jsonl" }));
    link.download = "corrections.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    tell(corrections.size === 1 ? t("Exported 1 correction.") : t("Exported {n} corrections.", { n: count(corrections.size) }));
  };
  window.addEventListener("hashchange", route);
  /* On paper: all cells, or beside an open image a row of each type where all of them would take more than a sheet. */
  let before = more;
  window.addEventListener("beforeprint", () => {
    const each = inline && queue.length > SHEET ? ROW : 600;
    if (!onPaper) before = more;
    onPaper = true;
    more = Object.fromEntries(groups.map((group) => [group.name, each]));
    gallery();
  });
  window.addEventListener("afterprint", () => { onPaper = false; more = before; gallery(); });

  keeper(cells, { byId, tell });
  texts();
  differential();
  imageTable();
  views();
  kindButtons("kinds", apply);
  kindButtons("bulkkinds", apply);
  keyNames();
  gallery();
  if (inline && images.length) viewer.open(0); else route();
  return { ...cells, cells, viewer, gallery, apply, withdraw, tell, show: () => { texts(); differential(); status(); } };
}
