/* The static review page: cells by view, one image with its boxes, and corrections, which are stored in the browser and
   exported as JSON Lines. DATA comes from data.js; nothing is fetched. */
"use strict";

const byId = (id) => document.getElementById(id);
const KEEP = "blastdet-review " + DATA.id;
const SHOWN = 120;
const corrections = new Map(JSON.parse(localStorage.getItem(KEEP) || "[]"));
let view = DATA.views.find((v) => v.cells.length) ? DATA.views.find((v) => v.cells.length).name : DATA.views[0].name;
let shown = SHOWN;
let here = null; // index of the open image
let chosen = null; // key box of the selected cell

const capital = (text) => text[0].toUpperCase() + text.slice(1);
const keyOf = (sample, box) => DATA.samples[sample].sha256 + " " + box.map((side) => side.toFixed(1)).join(" ");
const colourOf = (name) => DATA.colours[name] || DATA.colours.unsure;

function save() {
  localStorage.setItem(KEEP, JSON.stringify([...corrections]));
  byId("count").textContent = corrections.size;
  byId("saved").textContent = corrections.size ? "Stored in this browser only. Export to save them." : "";
}

/* Correct a cell; the latest correction of a cell replaces earlier ones. `name` is the class it has on the page. */
function correct(sample, box, op, { old = "", name = "", moved = null }) {
  const before = corrections.get(keyOf(sample, box)) || {};
  const to = op === "delete" ? null : moved || before.new_box_xyxy || null;
  if (op === "ok" && to) op = "class"; // right at its new place: a move
  // An ignored detection becomes an ignored region and needs a class; an annotated cell has one.
  const keeps = op === "class" || (op === "ignore" && !old);
  corrections.set(keyOf(sample, box), {
    who: byId("who").value.trim(),
    when: new Date().toISOString(),
    image: DATA.samples[sample].name,
    image_sha256: DATA.samples[sample].sha256,
    box_xyxy: box,
    op,
    old_class: old,
    new_class: keeps ? name : "",
    new_box_xyxy: to,
    model_sha256: DATA.model_sha256,
  });
  save();
}

function lines() {
  return [...corrections.values()].map((one) => JSON.stringify({ ...one, who: one.who || byId("who").value.trim() }) + "\n").join("");
}

function choices(sample, cell, done) {
  const row = document.createElement("span");
  row.className = "fix";
  const now = corrections.get(keyOf(sample, cell.box));
  const add = (word, pressed, press) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = word;
    if (pressed !== null) button.setAttribute("aria-pressed", String(pressed));
    button.onclick = () => { press(); done(); };
    row.append(button);
  };
  for (const word of [...DATA.classes, "ignore", "delete", "ok"]) {
    const op = DATA.classes.includes(word) ? "class" : word;
    const pressed = Boolean(now && now.op === op && (op !== "class" || now.new_class === word));
    add(word, pressed, () => correct(sample, cell.box, op, { old: cell.old, name: op === "class" ? word : cell.name }));
  }
  if (now) add("undo", null, () => { corrections.delete(keyOf(sample, cell.box)); save(); });
  return row;
}

const KINDS = { hit: "Hit", confused: "Confused", missed: "Missed", false: "False" };

function describe(cell) {
  const parts = [KINDS[cell.kind]];
  if (cell.true_class) parts.push("label " + cell.true_class);
  if (cell.detected_class) parts.push("detected " + cell.detected_class + " " + cell.score.toFixed(2));
  if (cell.blast_probability !== null) parts.push("P(blast) " + cell.blast_probability.toFixed(2) + (cell.unsure ? ", uncertain" : ""));
  if (cell.novelty > 1) parts.push("unlike the training data");
  if (cell.iou !== null) parts.push("IoU " + cell.iou.toFixed(2));
  return parts.join(" · ");
}

const images = new Map();
function loadImage(sample) {
  if (!images.has(sample)) {
    images.set(sample, new Promise((done, fail) => {
      const image = new Image();
      image.onload = () => done(image);
      image.onerror = () => fail(new Error(DATA.samples[sample].file));
      image.src = DATA.samples[sample].file;
    }));
  }
  return images.get(sample);
}

async function paint(canvas, cell) {
  const sample = DATA.samples[cell.sample];
  const image = await loadImage(cell.sample);
  const [x1, y1, x2, y2] = cell.truth_box || cell.detected_box;
  const reach = Math.max((x2 - x1) * sample.mpp[0], (y2 - y1) * sample.mpp[1]) * 1.1; // µm, or pixels if the scale is unknown
  const left = (x1 + x2) / 2 - reach / sample.mpp[0], top = (y1 + y2) / 2 - reach / sample.mpp[1];
  const wide = (2 * reach) / sample.mpp[0], high = (2 * reach) / sample.mpp[1];
  const fx = image.naturalWidth / sample.width, fy = image.naturalHeight / sample.height;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#888";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(image, left * fx, top * fy, wide * fx, high * fy, 0, 0, canvas.width, canvas.height);
  for (const [box, name, dash] of [[cell.truth_box, cell.true_class, []], [cell.detected_box, cell.detected_class, [7, 5]]]) {
    if (!box) continue;
    pen.setLineDash(dash);
    pen.lineWidth = 2.5;
    pen.strokeStyle = colourOf(name);
    const sx = canvas.width / wide, sy = canvas.height / high;
    pen.strokeRect((box[0] - left) * sx, (box[1] - top) * sy, (box[2] - box[0]) * sx, (box[3] - box[1]) * sy);
  }
}

function card(cell) {
  const box = cell.truth_box || cell.detected_box;
  const now = corrections.get(keyOf(cell.sample, box));
  const made = document.createElement("article");
  made.className = "cell" + (now ? " done" : "");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 220;
  canvas.onclick = () => openSample(cell.sample, box);
  paint(canvas, cell).catch((error) => { made.title = "Cannot show " + error.message; });
  const text = document.createElement("p");
  text.textContent = describe(cell);
  const name = document.createElement("p");
  name.textContent = DATA.samples[cell.sample].name;
  const about = { box, old: cell.true_class, name: (now && now.new_class) || cell.true_class || cell.detected_class };
  made.append(canvas, text, name, choices(cell.sample, about, () => made.replaceWith(card(cell))));
  return made;
}

function list() {
  byId("sample").hidden = true;
  byId("grid").hidden = false;
  byId("views").replaceChildren(...DATA.views.map((v) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = capital(v.title) + " (" + v.cells.length + ")";
    button.dataset.view = v.name;
    button.setAttribute("aria-pressed", String(v.name === view));
    button.onclick = () => { view = v.name; shown = SHOWN; list(); };
    return button;
  }), samplePicker());
  const cells = DATA.views.find((v) => v.name === view).cells;
  byId("grid").replaceChildren(...cells.slice(0, shown).map((index) => card(DATA.cells[index])));
  byId("empty").hidden = cells.length > 0;
  byId("more").hidden = cells.length <= shown;
}

function samplePicker() {
  const select = document.createElement("select");
  select.id = "samples";
  select.setAttribute("aria-label", "Images by number of errors");
  select.append(new Option("Images by number of errors", ""));
  for (const i of DATA.worst) select.append(new Option(DATA.samples[i].name + " (" + DATA.samples[i].errors + (DATA.samples[i].errors === 1 ? " error)" : " errors)"), i));
  if (DATA.repeated.length) {
    const group = document.createElement("optgroup");
    group.label = "Repeated fields";
    for (const i of DATA.repeated) group.append(new Option(DATA.samples[i].name, i));
    select.append(group);
  }
  select.onchange = () => { if (select.value !== "") openSample(Number(select.value), null); };
  return select;
}

function openSample(sample, box) {
  here = sample;
  chosen = box;
  byId("grid").hidden = true;
  byId("more").hidden = true;
  byId("empty").hidden = true;
  byId("sample").hidden = false;
  byId("name").textContent = DATA.samples[sample].name;
  byId("picture").src = DATA.samples[sample].file;
  byId("picture").alt = DATA.samples[sample].name;
  draw();
}

/* Boxes of an image: key box, current box, class, the class shown, annotated class, and origin. */
function boxesOf(sample) {
  const out = new Map();
  for (const [box, name] of DATA.samples[sample].ignored) out.set(keyOf(sample, box), { box, at: box, name, shown: "ignored", old: name, from: "ignored" });
  for (const cell of DATA.cells) {
    if (cell.sample !== sample) continue;
    const box = cell.truth_box || cell.detected_box, name = cell.true_class || cell.detected_class;
    const apart = cell.truth_box && cell.detected_box && (cell.kind !== "hit" || cell.iou < DATA.low_iou);
    const pair = apart ? { box: cell.detected_box, name: cell.detected_class } : null;
    out.set(keyOf(sample, box), { box, at: box, name, shown: name, old: cell.true_class, from: cell.truth_box ? "truth" : "detected", pair });
  }
  for (const one of corrections.values()) {
    if (one.image_sha256 !== DATA.samples[sample].sha256) continue;
    const key = keyOf(sample, one.box_xyxy);
    const before = out.get(key) || { box: one.box_xyxy, at: one.box_xyxy, old: "" };
    const name = one.new_class || before.name;
    const shown = { delete: "deleted", ignore: "ignored" }[one.op] || name;
    out.set(key, { ...before, at: one.new_box_xyxy || one.box_xyxy, name, shown, op: one.op, from: "corrected" });
  }
  return [...out.values()];
}

function draw() {
  const sample = DATA.samples[here];
  const svg = byId("boxes");
  svg.setAttribute("viewBox", "0 0 " + sample.width + " " + sample.height);
  svg.setAttribute("preserveAspectRatio", "none");
  const all = boxesOf(here);
  const isChosen = (b) => chosen !== null && keyOf(here, b.box) === keyOf(here, chosen);
  const rects = all.filter((b) => b.pair).map((b) => rect(b.pair.box, "detected pair", colourOf(b.pair.name), null));
  rects.push(...all.map((b) => rect(b.at, b.from + (isChosen(b) ? " chosen" : ""), colourOf(b.shown), (event) => grab(event, b, false))));
  const mine = all.find(isChosen);
  byId("chosen").textContent = mine ? mine.shown : "";
  byId("actions").replaceChildren();
  if (mine) {
    byId("actions").append(choices(here, mine, draw));
    if (mine.op !== "delete") {
      const side = Math.max(sample.width, sample.height) / 90;
      const corner = [mine.at[2] - side / 2, mine.at[3] - side / 2, mine.at[2] + side / 2, mine.at[3] + side / 2];
      rects.push(rect(corner, "handle", "#000", (event) => grab(event, mine, true)));
    }
  }
  svg.replaceChildren(...rects);
}

function rect(at, kind, colour, down) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [key, value] of Object.entries({ x: at[0], y: at[1], width: at[2] - at[0], height: at[3] - at[1], class: kind, stroke: colour })) made.setAttribute(key, value);
  made.onpointerdown = down;
  return made;
}

function spot(event) {
  const sample = DATA.samples[here], frame = byId("boxes").getBoundingClientRect();
  return [((event.clientX - frame.left) / frame.width) * sample.width, ((event.clientY - frame.top) / frame.height) * sample.height];
}

/* Follow the pointer until it is released; `moved` gets the distance, `done` is called once. */
function follow(event, moved, done) {
  event.preventDefault();
  event.stopPropagation();
  const start = spot(event);
  const move = (e) => { const now = spot(e); moved(now[0] - start[0], now[1] - start[1], now); };
  const up = () => {
    window.removeEventListener("pointermove", move);
    window.removeEventListener("pointerup", up);
    done();
  };
  window.addEventListener("pointermove", move);
  window.addEventListener("pointerup", up);
}

function within(box) {
  const sample = DATA.samples[here];
  const clip = (value, most) => Math.round(Math.min(Math.max(value, 0), most) * 10) / 10;
  return [clip(box[0], sample.width), clip(box[1], sample.height), clip(box[2], sample.width), clip(box[3], sample.height)];
}

function grab(event, b, resize) {
  if (byId("draw").value) return;
  chosen = b.box;
  if (b.op === "delete") { event.stopPropagation(); draw(); return; }
  let to = null;
  follow(event, (dx, dy) => {
    const [x1, y1, x2, y2] = b.at;
    const next = within(resize ? [x1, y1, Math.max(x2 + dx, x1 + 1), Math.max(y2 + dy, y1 + 1)] : [x1 + dx, y1 + dy, x2 + dx, y2 + dy]);
    if (Math.abs(dx) + Math.abs(dy) > 1 && next[2] - next[0] >= 1 && next[3] - next[1] >= 1) to = next;
  }, () => {
    const ignored = b.op === "ignore" || (!b.op && b.from === "ignored");
    if (to) correct(here, b.box, ignored ? "ignore" : "class", { old: b.old, name: b.name, moved: to });
    draw();
  });
}

byId("boxes").onpointerdown = (event) => {
  const name = byId("draw").value;
  if (!name) return;
  const start = spot(event);
  let to = null;
  follow(event, (dx, dy, now) => {
    to = within([Math.min(start[0], now[0]), Math.min(start[1], now[1]), Math.max(start[0], now[0]), Math.max(start[1], now[1])]);
  }, () => {
    if (to && to[2] - to[0] >= 2 && to[3] - to[1] >= 2) { correct(here, to, "class", { name }); chosen = to; }
    byId("draw").value = "";
    draw();
  });
};

byId("back").onclick = list;
byId("more").onclick = () => { shown += SHOWN; list(); };
byId("who").value = localStorage.getItem(KEEP + " who") || "";
byId("who").onchange = () => localStorage.setItem(KEEP + " who", byId("who").value);
byId("bar").onsubmit = (event) => event.preventDefault();
byId("export").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines()], { type: "application/jsonl" }));
  link.download = "corrections.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
};
for (const name of DATA.classes) byId("draw").append(new Option(name, name));
byId("title").textContent = DATA.title;
byId("notice").textContent = DATA.notice;
byId("legend").append("Solid boxes: annotated. Dashed boxes: detected. ", ...DATA.classes.map((name) => {
  const word = document.createElement("b");
  word.textContent = name + " ";
  word.style.color = colourOf(name);
  return word;
}));
save();
list();
