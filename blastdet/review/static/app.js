/* The static review page: cells by view, a smear with its boxes, corrections kept in the browser and exported as JSON
   lines. DATA comes from data.js; nothing is fetched. */
"use strict";

const byId = (id) => document.getElementById(id);
const KEEP = "blastdet-review " + DATA.id;
const SHOWN = 120;
const said = new Map(JSON.parse(localStorage.getItem(KEEP) || "[]"));
let view = DATA.views.find((v) => v.cells.length) ? DATA.views.find((v) => v.cells.length).name : DATA.views[0].name;
let shown = SHOWN;
let here = null; // the smear on the stage
let chosen = null; // the box chosen there

const keyOf = (smear, box) => DATA.smears[smear].sha256 + " " + box.map((side) => side.toFixed(1)).join(" ");
const colourOf = (name) => DATA.colours[name] || DATA.colours.unsure;

function save() {
  localStorage.setItem(KEEP, JSON.stringify([...said]));
  byId("count").textContent = said.size;
  byId("saved").textContent = said.size ? "kept in this browser; export before you close it for good" : "";
}

/* What is said of a cell: its class, box and operation, one statement a cell. `name` is the class it has on the page. */
function say(smear, box, op, { old = "", name = "", moved = null }) {
  const before = said.get(keyOf(smear, box)) || {};
  const to = op === "delete" ? null : moved || before.new_box_xyxy || null;
  if (op === "ok" && to) op = "class"; // where it is now is right: that is a move
  // An ignored detection becomes a region that is not to be counted, and needs a class; a cell that is annotated has one.
  const keeps = op === "class" || (op === "ignore" && !old);
  said.set(keyOf(smear, box), {
    who: byId("who").value.trim(),
    when: new Date().toISOString(),
    image: DATA.smears[smear].name,
    image_sha256: DATA.smears[smear].sha256,
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
  return [...said.values()].map((one) => JSON.stringify({ ...one, who: one.who || byId("who").value.trim() }) + "\n").join("");
}

function choices(smear, cell, done) {
  const row = document.createElement("span");
  row.className = "fix";
  const now = said.get(keyOf(smear, cell.box));
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
    add(word, pressed, () => say(smear, cell.box, op, { old: cell.old, name: op === "class" ? word : cell.name }));
  }
  if (now) add("undo", null, () => { said.delete(keyOf(smear, cell.box)); save(); });
  return row;
}

function words(cell) {
  const parts = [cell.kind];
  if (cell.true_class) parts.push("label " + cell.true_class);
  if (cell.found_class) parts.push("found " + cell.found_class + " " + cell.score.toFixed(2));
  if (cell.blast_probability !== null) parts.push("blast " + cell.blast_probability.toFixed(2) + (cell.unsure ? ", unsure" : ""));
  if (cell.novelty > 1) parts.push("unlike anything seen");
  if (cell.iou !== null) parts.push("IoU " + cell.iou.toFixed(2));
  return parts.join(" · ");
}

const pictures = new Map();
function picture(smear) {
  if (!pictures.has(smear)) {
    pictures.set(smear, new Promise((done, fail) => {
      const image = new Image();
      image.onload = () => done(image);
      image.onerror = () => fail(new Error(DATA.smears[smear].file));
      image.src = DATA.smears[smear].file;
    }));
  }
  return pictures.get(smear);
}

async function paint(canvas, cell) {
  const smear = DATA.smears[cell.sample];
  const image = await picture(cell.sample);
  const [x1, y1, x2, y2] = cell.truth_box || cell.found_box;
  const reach = Math.max((x2 - x1) * smear.mpp[0], (y2 - y1) * smear.mpp[1]) * 1.1; // µm, or pixels where mpp is unknown
  const left = (x1 + x2) / 2 - reach / smear.mpp[0], top = (y1 + y2) / 2 - reach / smear.mpp[1];
  const wide = (2 * reach) / smear.mpp[0], high = (2 * reach) / smear.mpp[1];
  const fx = image.naturalWidth / smear.width, fy = image.naturalHeight / smear.height;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#888";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(image, left * fx, top * fy, wide * fx, high * fy, 0, 0, canvas.width, canvas.height);
  for (const [box, name, dash] of [[cell.truth_box, cell.true_class, []], [cell.found_box, cell.found_class, [7, 5]]]) {
    if (!box) continue;
    pen.setLineDash(dash);
    pen.lineWidth = 2.5;
    pen.strokeStyle = colourOf(name);
    const sx = canvas.width / wide, sy = canvas.height / high;
    pen.strokeRect((box[0] - left) * sx, (box[1] - top) * sy, (box[2] - box[0]) * sx, (box[3] - box[1]) * sy);
  }
}

function card(cell) {
  const box = cell.truth_box || cell.found_box;
  const now = said.get(keyOf(cell.sample, box));
  const made = document.createElement("article");
  made.className = "cell" + (now ? " done" : "");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 220;
  canvas.onclick = () => openSmear(cell.sample, box);
  paint(canvas, cell).catch((error) => { made.title = "cannot be shown: " + error.message; });
  const text = document.createElement("p");
  text.textContent = words(cell);
  const name = document.createElement("p");
  name.textContent = DATA.smears[cell.sample].name;
  const about = { box, old: cell.true_class, name: (now && now.new_class) || cell.true_class || cell.found_class };
  made.append(canvas, text, name, choices(cell.sample, about, () => made.replaceWith(card(cell))));
  return made;
}

function list() {
  byId("smear").hidden = true;
  byId("grid").hidden = false;
  byId("views").replaceChildren(...DATA.views.map((v) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = v.title + " (" + v.cells.length + ")";
    button.dataset.view = v.name;
    button.setAttribute("aria-pressed", String(v.name === view));
    button.onclick = () => { view = v.name; shown = SHOWN; list(); };
    return button;
  }), smearPicker());
  const cells = DATA.views.find((v) => v.name === view).cells;
  byId("grid").replaceChildren(...cells.slice(0, shown).map((index) => card(DATA.cells[index])));
  byId("empty").hidden = cells.length > 0;
  byId("more").hidden = cells.length <= shown;
}

function smearPicker() {
  const select = document.createElement("select");
  select.id = "smears";
  select.setAttribute("aria-label", "smears, worst first");
  select.append(new Option("smears, worst first", ""));
  for (const i of DATA.worst) select.append(new Option(DATA.smears[i].name + " (" + DATA.smears[i].errors + " errors)", i));
  if (DATA.again.length) {
    const group = document.createElement("optgroup");
    group.label = "fields seen twice";
    for (const i of DATA.again) group.append(new Option(DATA.smears[i].name, i));
    select.append(group);
  }
  select.onchange = () => { if (select.value !== "") openSmear(Number(select.value), null); };
  return select;
}

function openSmear(smear, box) {
  here = smear;
  chosen = box;
  byId("grid").hidden = true;
  byId("more").hidden = true;
  byId("empty").hidden = true;
  byId("smear").hidden = false;
  byId("name").textContent = DATA.smears[smear].name;
  byId("picture").src = DATA.smears[smear].file;
  byId("picture").alt = DATA.smears[smear].name;
  draw();
}

/* Boxes of a smear: each with the box that names it, where it is now, its class, how it is shown, and what it was. */
function boxesOf(smear) {
  const out = new Map();
  for (const [box, name] of DATA.smears[smear].ignored) out.set(keyOf(smear, box), { box, at: box, name, shown: "to be ignored", old: name, from: "ignored" });
  for (const cell of DATA.cells) {
    if (cell.sample !== smear) continue;
    const box = cell.truth_box || cell.found_box, name = cell.true_class || cell.found_class;
    const apart = cell.truth_box && cell.found_box && (cell.kind !== "hit" || cell.iou < DATA.low_iou);
    const pair = apart ? { box: cell.found_box, name: cell.found_class } : null;
    out.set(keyOf(smear, box), { box, at: box, name, shown: name, old: cell.true_class, from: cell.truth_box ? "truth" : "found", pair });
  }
  for (const one of said.values()) {
    if (one.image_sha256 !== DATA.smears[smear].sha256) continue;
    const key = keyOf(smear, one.box_xyxy);
    const before = out.get(key) || { box: one.box_xyxy, at: one.box_xyxy, old: "" };
    const name = one.new_class || before.name;
    const shown = { delete: "deleted", ignore: "to be ignored" }[one.op] || name;
    out.set(key, { ...before, at: one.new_box_xyxy || one.box_xyxy, name, shown, op: one.op, from: "corrected" });
  }
  return [...out.values()];
}

function draw() {
  const smear = DATA.smears[here];
  const svg = byId("boxes");
  svg.setAttribute("viewBox", "0 0 " + smear.width + " " + smear.height);
  svg.setAttribute("preserveAspectRatio", "none");
  const all = boxesOf(here);
  const isChosen = (b) => chosen !== null && keyOf(here, b.box) === keyOf(here, chosen);
  const rects = all.filter((b) => b.pair).map((b) => rect(b.pair.box, "found pair", colourOf(b.pair.name), null));
  rects.push(...all.map((b) => rect(b.at, b.from + (isChosen(b) ? " chosen" : ""), colourOf(b.shown), (event) => grab(event, b, false))));
  const mine = all.find(isChosen);
  byId("chosen").textContent = mine ? mine.shown : "";
  byId("actions").replaceChildren();
  if (mine) {
    byId("actions").append(choices(here, mine, draw));
    if (mine.op !== "delete") {
      const side = Math.max(smear.width, smear.height) / 90;
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
  const smear = DATA.smears[here], frame = byId("boxes").getBoundingClientRect();
  return [((event.clientX - frame.left) / frame.width) * smear.width, ((event.clientY - frame.top) / frame.height) * smear.height];
}

/* Follow the pointer until it is let go; `moved` gets the distance, `done` is called once. */
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
  const smear = DATA.smears[here];
  const clip = (value, most) => Math.round(Math.min(Math.max(value, 0), most) * 10) / 10;
  return [clip(box[0], smear.width), clip(box[1], smear.height), clip(box[2], smear.width), clip(box[3], smear.height)];
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
    if (to) say(here, b.box, ignored ? "ignore" : "class", { old: b.old, name: b.name, moved: to });
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
    if (to && to[2] - to[0] >= 2 && to[3] - to[1] >= 2) { say(here, to, "class", { name }); chosen = to; }
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
byId("legend").append("Solid: annotated. Dashed: found by the model. ", ...DATA.classes.map((name) => {
  const word = document.createElement("b");
  word.textContent = name + " ";
  word.style.color = colourOf(name);
  return word;
}));
save();
list();
