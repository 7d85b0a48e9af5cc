/* The worklist: files dropped on it, jobs under way, and a short result beside each smear. */
"use strict";

import { announce, bindOptions, byId, call, follow, make, number, numbers, options, page, progressOf, remarksIn, renew, t, why } from "./api.js";
import { discard, unfinished, upload } from "./uploads.js";

const queue = byId("queue"), drop = byId("drop"), waiting = [];
let busy = 0;
const STREAMS = 2;

bindOptions("new");

/* One file in the queue: its name, a bar, words, and a button that ends it. */
function row(file) {
  const item = make("li"), bar = document.createElement("progress"), words = make("span", t("waiting"), "words"), stop = make("button", "×");
  const name = make("span", file.name, "name");
  bar.max = 1;
  bar.value = 0;
  bar.setAttribute("aria-label", file.name);
  stop.type = "button";
  stop.setAttribute("aria-label", t("Cancel") + " " + file.name);
  item.append(name, bar, words, stop);
  queue.append(item);
  return { item, name, bar, words, stop };
}

function add(files) {
  const scale = byId("new-mpp");
  if (byId("new-analyze").checked && !scale.checkValidity()) { // before anything is sent
    scale.closest("details").open = true;
    scale.reportValidity();
    return;
  }
  for (const file of files) waiting.push([file, row(file)]);
  byId("unfinished").replaceChildren(); // one of them may be going on now
  next();
}

function next() {
  while (busy < 2 && waiting.length) {
    busy++;
    const [file, shown] = waiting.shift();
    one(file, shown).finally(() => { busy--; next(); });
  }
}

async function one(file, shown) {
  const stop = {};
  shown.stop.onclick = () => { if (stop.now) stop.now(); };
  try {
    const smear = await upload(file, (n) => { shown.bar.value = file.size ? n / file.size : 1; shown.words.textContent = numbers.percent(shown.bar.value); }, stop);
    const link = make("a", file.name);
    link.href = "/smears/" + smear;
    shown.name.replaceChildren(link);
    if (byId("new-analyze").checked) await analyze(smear, shown);
    else finish(shown, t("added"));
  } catch (error) { finish(shown, error.message, true); }
}

async function analyze(smear, shown) {
  const { json: job } = await call("POST", "/smears/" + smear + "/analyses", options("new"));
  shown.stop.onclick = () => call("POST", "/jobs/" + job.id + "/cancel").catch(() => {});
  await new Promise((done) => {
    const changed = (now) => {
      if (now.state === "done") { finish(shown, t("done")); done(); }
      else if (now.state === "failed") { finish(shown, why(now.error), true); done(); }
      else if (now.state === "cancelled") { finish(shown, t("cancelled"), true); done(); }
      else show(shown, now);
    };
    if (job.state === "done") changed(job); else follow(job.id, changed);
  });
}

function show(shown, job) {
  const [text, part] = progressOf(job);
  shown.words.textContent = text;
  if (part === null) shown.bar.removeAttribute("value"); else shown.bar.value = part;
}

function finish(shown, text, failed = false) {
  shown.item.classList.add(failed ? "failed" : "done");
  shown.words.textContent = text;
  shown.bar.remove();
  shown.stop.remove();
  announce(shown.name.textContent + ": " + text);
  const rest = queue.querySelectorAll("li:not(.failed):not(.done)").length;
  if (rest || queue.querySelector(".failed")) refresh(); // what failed stays on the page
  else {
    const links = queue.querySelectorAll("a");
    if (links.length === 1) location.href = links[0].href; // one smear: show it
    else location.reload();
  }
}

/* What did not arrive completely, of this browser: the same file again goes on. It may also be on its way in another tab. */
async function hints() {
  for (const one of await unfinished()) {
    const item = make("li"), end = make("button", t("Delete"));
    end.type = "button";
    end.setAttribute("aria-label", t("Delete") + " " + one.name);
    end.onclick = () => discard(one).then(() => item.remove(), (error) => { end.replaceWith(make("span", error.message, "fault")); });
    item.append(make("span", t("{name}: {n} % have arrived. Drop the same file again, and it goes on from there.", { name: one.name, n: number(Math.floor((100 * one.offset) / one.size)) }), "name"), end);
    if (!queue.children.length) byId("unfinished").append(item);
  }
}
hints();

byId("files").onchange = () => { add(byId("files").files); byId("files").value = ""; };
let depth = 0;
addEventListener("dragenter", (event) => { event.preventDefault(); depth++; drop.classList.add("over"); });
addEventListener("dragleave", () => { if (--depth <= 0) drop.classList.remove("over"); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
addEventListener("beforeunload", (event) => { if (busy && queue.querySelector("progress[value]:not([value='1'])")) event.preventDefault(); });

/* The list as it is now, in place of the one on the page; what is ticked stays so. One look at a time. */
let looking = null, again = false;
function refresh() {
  again = true;
  looking = looking || (async () => {
    while (again) {
      again = false;
      try {
        await renew("list");
        const ticked = new Set(picks), at = focused;
        for (const pick of document.querySelectorAll(".pick")) pick.checked = ticked.has(pick.value);
        bindList();
        const found = at && document.querySelector(at);
        if (found) found.focus({ preventScroll: true });
      } catch { /* it stays as it was */ }
    }
    looking = null;
  })();
}

/* What has to survive a new list: the ticks, and where the focus is. */
let picks = [], focused = "";
document.addEventListener("focusin", (event) => {
  const row = event.target.closest("#list tr[data-smear]");
  focused = row ? '#list tr[data-smear="' + row.dataset.smear + '"] ' + (event.target.matches(".pick") ? ".pick" : "th a") : "";
});

/* Jobs of smears that are in the list already, in the order in which they are done. Few at a time: a browser has six
   connections to a service, and a stream for each job would leave none to other requests and pages. */
function followNext() {
  const [smear, id] = page.jobs.shift() || [], result = () => document.querySelector('tr[data-smear="' + smear + '"] .result');
  if (id) follow(id, (job) => {
    if (["done", "failed", "cancelled"].includes(job.state)) { refresh(); followNext(); } // the list shows what became of the others, too
    else if (job.state === "running" && result()) result().textContent = progressOf(job)[0];
  });
}
for (let n = 0; n < STREAMS; n++) followNext();

const whiteCells = (n) => (n === 1 ? t("1 white cell") : t("{n} white cells", { n: number(n) }));

const known = new Map(); // results that were asked for already
async function resultOf(id) {
  if (!known.has(id)) known.set(id, (await call("GET", "/analyses/" + id)).json);
  return known.get(id);
}

/* A line on each result: how many white cells, and blasts or why no fraction is given. */
async function results() {
  const cells = [...document.querySelectorAll(".result[data-analysis]:not([data-analysis=''])")], isKnown = (cell) => known.has(cell.dataset.analysis);
  for (const cell of cells.filter(isKnown)) fill(cell, known.get(cell.dataset.analysis)); // a new list does not flicker
  for (const cell of cells.filter((one) => !isKnown(one))) {
    try { fill(cell, await resultOf(cell.dataset.analysis)); } catch { return; } // the list is there without it
  }
}

function fill(cell, { summary, weights }) {
  const white = summary.white_cells;
  cell.parentElement.querySelector(".scale").textContent = summary.mpp.slice(0, Math.abs(summary.mpp[0] / summary.mpp[1] - 1) < 1e-6 ? 1 : 2).map((one) => numbers.significant(one)).join(" × ") + " µm/px";
  cell.parentElement.querySelector(".model").textContent = weights;
  cell.parentElement.querySelector(".parts").textContent = [summary.model, summary.model.second_stage].filter(Boolean).map((one) => one.name).join(" + ");
  if (cell.querySelector(".working")) return;
  const remarks = remarksIn(summary.warnings), doubts = remarks ? [make("small", remarks, "doubtful")] : [];
  if (!white) { cell.replaceChildren(make("span", whiteCells(summary.counts.wbc || 0)), ...doubts); return; }
  const line = make("span", whiteCells(white.n)), more = make("small");
  if (white.n && white.blast_share === null) { more.textContent = t("unknown stain: no blast fraction"); more.className = "doubtful"; }
  else more.textContent = white.blasts === 1 ? t("1 blast, {unsure} unsure", { unsure: number(white.unsure) }) : t("{n} blasts, {unsure} unsure", { n: number(white.blasts), unsure: number(white.unsure) });
  const few = white.n < white.differential_cells ? [make("small", t("fewer than the {n} of a differential", { n: number(white.differential_cells) }))] : [];
  cell.replaceChildren(line, more, ...few, ...doubts);
}

function bindCompare() {
  const boxes = [...document.querySelectorAll(".pick")], compare = byId("compare");
  const count = () => {
    const on = boxes.filter((one) => one.checked);
    picks = on.map((one) => one.value);
    compare.disabled = on.length !== 2;
    for (const one of boxes) one.disabled = on.length >= 2 && !one.checked;
  };
  for (const pick of boxes) pick.onchange = count;
  if (compare) { count(); compare.onclick = () => {
    const [left, right] = boxes.filter((one) => one.checked);
    location.href = "/compare?left=" + left.value + "&right=" + right.value;
  }; }
}

function bindList() {
  for (const line of document.querySelectorAll(".why[data-error]")) line.textContent = why(line.dataset.error);
  for (const picture of document.querySelectorAll(".thumb img")) { // where there is none, no sign of a broken one
    const leave = () => picture.replaceWith(make("span", "", "blank"));
    if (picture.complete && !picture.naturalWidth) leave(); else picture.onerror = leave;
  }
  results();
  bindCompare();
}
bindList();
