/* One image with its boxes on two canvases: pan, zoom, select, move, draw. */
"use strict";

import { makeTiles } from "./tiles.js";

/* `byId` finds the elements of the page by their names. */
export function makeViewer(cells, byId) {
  const { DATA, KINDS, KIND, UNSURE, IGNORED, GONE, ROUND, images, boxOf, correctionAt, refresh, correct, addCell, describe, printed, t, numbers, count } = cells;
  const stage = byId("stage"), canvas = byId("canvas");
  // Boxes have a canvas of their own: one with an image from a file must not be read, and copying one is slow.
  const back = byId("picture").getContext("2d", { alpha: false }), pen = canvas.getContext("2d", { willReadFrequently: true });
  const view = { k: 1, x: 0, y: 0 }; // screen = world * k + (x, y); the world has square pixels
  const hidden = new Set(KINDS.map((kind, index) => (kind.hidden || DATA.hidden.includes(kind.name) ? index : -1)).filter((index) => index >= 0));
  const loaded = new Map();
  let image = null, picture = null, tiles = null, chosen = new Set(), focus = -1, queued = false, boxes = true, size = [0, 0], aspect = [1, 1], drawing = "", failed = "";
  let sorted = null; // rows by kind, for drawing
  let limits = null; // of the scale, where another image shares it

  const isOpen = () => image !== null;
  const shown = (kind) => !hidden.has(kind);
  const unit = () => aspect[0] / (image.mpp || [1])[0]; // scale = view.k * unit
  const range = () => (limits ? limits.map((scale) => scale / unit()) : [fitted() * 0.5, 24]); // of view.k
  const fitted = () => Math.min(size[0] / (image.width * aspect[0]), size[1] / (image.height * aspect[1]));

  function load(i) {
    if (!loaded.has(i)) {
      loaded.set(i, new Promise((done, fail) => {
        const made = new Image();
        made.onload = () => done(halved(made));
        made.onerror = () => fail(new Error(images[i].file));
        made.src = encodeURI(images[i].file).replaceAll("#", "%23").replaceAll("?", "%3F");
      }));
      if (loaded.size > 6) loaded.delete(loaded.keys().next().value); // decoded images are large
    }
    return loaded.get(i);
  }

  /* The image halved again and again: scaling all of it down for each frame is slow. */
  async function halved(full) {
    const levels = [full];
    for (let w = full.naturalWidth / 2, h = full.naturalHeight / 2; w > 500 && h > 1; w /= 2, h /= 2) {
      levels.push(await createImageBitmap(levels[levels.length - 1], { resizeWidth: Math.round(w), resizeHeight: Math.round(h), resizeQuality: "medium" }));
    }
    return levels;
  }

  function levelFor(wide) {
    let best = picture[0];
    for (const one of picture) if ((one.naturalWidth || one.width) >= wide * 0.9) best = one;
    return best;
  }

  function resize() {
    if (!isOpen()) return;
    const frame = stage.getBoundingClientRect(), ratio = Math.min(window.devicePixelRatio || 1, 2);
    if (!frame.width) return; // on paper: the view stays as it was
    const before = size;
    size = [frame.width, frame.height];
    for (const one of [back.canvas, canvas]) { one.width = Math.round(size[0] * ratio); one.height = Math.round(size[1] * ratio); }
    if (before[0]) { view.x += (size[0] - before[0]) / 2; view.y += (size[1] - before[1]) / 2; }
    redraw();
  }

  function redraw() {
    if (queued || !isOpen()) return;
    queued = true;
    requestAnimationFrame(() => { queued = false; if (isOpen()) paint(); });
  }

  function paint() {
    const ratio = canvas.width / size[0];
    back.setTransform(1, 0, 0, 1, 0, 0);
    back.fillStyle = "#26292d";
    back.fillRect(0, 0, canvas.width, canvas.height);
    const wide = image.width * aspect[0] * view.k, high = image.height * aspect[1] * view.k;
    if (picture) {
      back.setTransform(ratio, 0, 0, ratio, 0, 0);
      back.imageSmoothingEnabled = view.k < 4;
      // only the part in sight: enlarging all of a large image is slow
      const left = Math.max(0, -view.x / wide), top = Math.max(0, -view.y / high);
      const right = Math.min(1, (size[0] - view.x) / wide), bottom = Math.min(1, (size[1] - view.y) / high);
      if (right > left && bottom > top) {
        const from = levelFor(wide * ratio), w = from.naturalWidth || from.width, h = from.naturalHeight || from.height;
        back.drawImage(from, left * w, top * h, (right - left) * w, (bottom - top) * h, view.x + left * wide, view.y + top * high, (right - left) * wide, (bottom - top) * high);
      }
    }
    if (tiles) {
      back.setTransform(ratio, 0, 0, ratio, 0, 0);
      back.imageSmoothingEnabled = view.k < 4;
      tiles.paint(back, { x: view.x, y: view.y, kx: view.k * aspect[0], ky: view.k * aspect[1], size, ratio });
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (!boxes) pen.clearRect(0, 0, size[0], size[1]);
    if (boxes) paintBoxes();
    paintChosen();
    ruler();
  }

  const toScreen = (box) => [box[0] * aspect[0] * view.k + view.x, box[1] * aspect[1] * view.k + view.y, box[2] * aspect[0] * view.k + view.x, box[3] * aspect[1] * view.k + view.y];

  function byKind() {
    if (sorted && sorted.version === image.version && sorted.i === image.i) return sorted.rows;
    const rows = KINDS.map(() => []);
    for (let row = 0; row < image.kind.length; row++) if (image.kind[row] !== GONE) rows[image.kind[row]].push(row);
    sorted = { i: image.i, version: image.version, rows };
    return rows;
  }

  /* Boxes are written into a buffer of pixels: 20,000 of them take milliseconds, drawn as strokes a second. */
  let buffer = null, pixels = null;
  const rgba = (hex, alpha = 255) => { const n = parseInt(hex.slice(1), 16); return ((alpha << 24) | ((n & 255) << 16) | (n & 0xff00) | (n >> 16)) >>> 0; };
  const INK = KINDS.map((kind) => rgba(kind.colour)), HALO = KINDS.map((kind) => (kind.dark ? 0xffffffff : 0xff202020));

  function frame(x1, y1, x2, y2, ink, line, dash) {
    const w = canvas.width, h = canvas.height, o = line >> 1;
    for (let k = 0; k < line; k++) {
      level(x1 - o, x2 + line - o, y1 - o + k, ink, dash, w, h);
      level(x1 - o, x2 + line - o, y2 - o + k, ink, dash, w, h);
      upright(y1 - o, y2 + line - o, x1 - o + k, ink, dash, w, h);
      upright(y1 - o, y2 + line - o, x2 - o + k, ink, dash, w, h);
    }
  }

  function level(from, to, y, ink, dash, w, h) {
    if (y < 0 || y >= h) return;
    const left = Math.max(from, 0), right = Math.min(to, w);
    if (right <= left) return;
    if (!dash) { pixels.fill(ink, y * w + left, y * w + right); return; }
    for (let x = left; x < right; x++) if ((x - from) % (2 * dash) < dash) pixels[y * w + x] = ink;
  }

  function upright(from, to, x, ink, dash, w, h) {
    if (x < 0 || x >= w) return;
    const top = Math.max(from, 0), bottom = Math.min(to, h);
    for (let y = top, at = top * w + x; y < bottom; y++, at += w) if (!dash || (y - from) % (2 * dash) < dash) pixels[at] = ink;
  }

  function paintBoxes() {
    const ratio = canvas.width / size[0], rows = byKind(), side = image.box, tags = [];
    if (!buffer || buffer.width !== canvas.width || buffer.height !== canvas.height) {
      buffer = pen.createImageData(canvas.width, canvas.height);
      pixels = new Uint32Array(buffer.data.buffer);
    }
    pixels.fill(0);
    const sx = aspect[0] * view.k * ratio, sy = aspect[1] * view.k * ratio, ox = view.x * ratio, oy = view.y * ratio, w = canvas.width, h = canvas.height;
    const thick = Math.max(1, Math.round(ratio)), dashed = image.dashed ? new Set(image.dashed) : null;
    for (let kind = KINDS.length - 1; kind >= 0; kind--) { // white cells last, on top
      if (!shown(kind)) continue;
      const white = KINDS[kind].white, always = kind === UNSURE ? 5 * thick : kind === IGNORED ? 2 * thick : 0;
      const line = (white && rows[kind].length < 4000 ? 2 : 1) * thick;
      for (const row of rows[kind]) {
        const at = 4 * row, x1 = Math.round(side[at] * sx + ox), x2 = Math.round(side[at + 2] * sx + ox);
        if (x1 > w || x2 < 0) continue;
        const y1 = Math.round(side[at + 1] * sy + oy), y2 = Math.round(side[at + 3] * sy + oy);
        if (y1 > h || y2 < 0) continue;
        const dash = always || (dashed && dashed.has(row) ? 5 * thick : 0);
        if (x2 - x1 < 3) { level(x1, x1 + 2, y1, INK[kind], 0, w, h); continue; }
        if (white && x2 - x1 > 12) { // a line of one brightness alone is lost on some backgrounds
          frame(x1 - thick, y1 - thick, x2 + thick, y2 + thick, HALO[kind], thick, 0);
          frame(x1 + line - thick, y1 + line - thick, x2 - line + thick, y2 - line + thick, HALO[kind], thick, 0);
        }
        frame(x1, y1, x2, y2, INK[kind], line, dash);
        if (white && x2 - x1 > 34 * ratio) tags.push([row, x1 / ratio, y1 / ratio, kind, y2 / ratio]);
      }
    }
    pen.putImageData(buffer, 0, 0);
    if (tags.length < 300) tagAll(tags);
    if (image.pair) for (const row of Object.keys(image.pair)) pairBox(image.pair[row]);
  }

  function pairBox([x1, y1, x2, y2, kind]) {
    const [left, top, right, bottom] = toScreen([x1, y1, x2, y2]);
    pen.setLineDash([7, 5]); pen.lineWidth = 2; pen.strokeStyle = KINDS[kind].colour;
    pen.strokeRect(left, top, right - left, bottom - top);
    pen.setLineDash([]);
  }

  /* Words at boxes, the doubtful ones first: above the box, else below it, else in it; none where they would cover others. */
  function tagAll(tags) {
    const placed = [], free = ([x, y, wide]) => placed.every(([px, py, other]) => x >= px + other || px >= x + wide || y >= py + 16 || py >= y + 16);
    for (const [row, x, y, kind, bottom] of tags.filter(([one]) => !chosen.has(one)).sort((a, b) => (b[3] === UNSURE) - (a[3] === UNSURE))) {
      const text = tagText(row, kind), wide = tagWidth(text);
      const at = [y - 17 < 0 ? y + 1 : y - 17, bottom + 2, y + 2, bottom - 18].map((top) => [x - 1, top, wide]).find(free);
      if (!at) continue;
      placed.push(at);
      write(text, x, at[1], kind, wide);
    }
  }

  function tagText(row, kind) {
    const p = printed(image, row);
    return KINDS[kind].title + (correctionAt(image.i, row) ? " ✓" : p === null ? "" : " " + numbers.short(p));
  }

  function tagWidth(text) {
    pen.font = "600 12px system-ui, sans-serif";
    return pen.measureText(text).width + 8;
  }

  function tag(row, x, y, kind) {
    const text = tagText(row, kind);
    write(text, x, y - 17 < 0 ? y + 1 : y - 17, kind, tagWidth(text));
  }

  function write(text, x, top, kind, wide) {
    pen.fillStyle = KINDS[kind].colour;
    pen.fillRect(x - 1, top, wide, 16);
    pen.fillStyle = KINDS[kind].dark ? "#fff" : "#000";
    pen.fillText(text, x + 3, top + 12);
  }

  function paintChosen() {
    for (const row of chosen) {
      if (image.kind[row] === GONE && !correctionAt(image.i, row)) continue;
      const [left, top, right, bottom] = toScreen(boxOf(image, row));
      for (const [width, colour, grow] of [[6, "#000", 4], [3, "#fff", 4]]) {
        pen.lineWidth = width; pen.strokeStyle = colour;
        pen.strokeRect(left - grow, top - grow, right - left + 2 * grow, bottom - top + 2 * grow);
      }
      if (image.kind[row] !== GONE && right - left > 34) tag(row, left, top - 7, image.kind[row]);
      if (chosen.size === 1 && image.kind[row] !== GONE) { pen.fillStyle = "#000"; pen.fillRect(right - 1, bottom - 1, 11, 11); pen.fillStyle = "#fff"; pen.fillRect(right + 1, bottom + 1, 7, 7); }
    }
  }

  function ruler() {
    const bar = byId("ruler");
    bar.hidden = !image.mpp;
    byId("zoom").textContent = numbers.percent(Math.round(view.k * 100) / 100);
    if (!image.mpp) return;
    const perUm = view.k * aspect[0] / image.mpp[0]; // screen pixels per µm
    const um = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000].find((length) => length * perUm >= 70) || 20000;
    bar.style.width = um * perUm + "px";
    bar.textContent = um >= 1000 ? um / 1000 + " mm" : um + " µm";
  }

  function clampView() {
    const wide = image.width * aspect[0] * view.k, high = image.height * aspect[1] * view.k, rim = 80;
    view.x = Math.min(Math.max(view.x, rim - wide), size[0] - rim);
    view.y = Math.min(Math.max(view.y, rim - high), size[1] - rim);
  }

  function fit() {
    view.k = fitted() * 0.97;
    view.x = (size[0] - image.width * aspect[0] * view.k) / 2;
    view.y = (size[1] - image.height * aspect[1] * view.k) / 2;
    redraw();
  }

  function zoomAt(factor, x = size[0] / 2, y = size[1] / 2) {
    const [least, most] = range(), k = Math.min(Math.max(view.k * factor, least), most);
    view.x = x - (x - view.x) * (k / view.k);
    view.y = y - (y - view.y) * (k / view.k);
    view.k = k;
    clampView();
    redraw();
    cells.onZoom();
  }

  function pan(dx, dy) { view.x += dx; view.y += dy; clampView(); redraw(); }

  /* Bring a cell into the middle, large enough to judge it in its surroundings. */
  function goTo(row) {
    const box = boxOf(image, row), side = Math.max((box[2] - box[0]) * aspect[0], (box[3] - box[1]) * aspect[1]);
    const wanted = Math.min(size[0], size[1]) * 0.26 / Math.max(side, 1);
    if (view.k < wanted * 0.5 || view.k > wanted * 3) view.k = Math.min(Math.max(wanted, fitted()), range()[1]);
    view.x = size[0] / 2 - ((box[0] + box[2]) / 2) * aspect[0] * view.k;
    view.y = size[1] / 2 - ((box[1] + box[3]) / 2) * aspect[1] * view.k;
    redraw();
    cells.onZoom();
  }

  async function open(i, row = -1) {
    const other = !image || image.i !== i;
    image = images[i];
    const mpp = image.mpp || [1, 1], finest = Math.min(...mpp);
    aspect = [mpp[0] / finest, mpp[1] / finest];
    byId("viewer").hidden = false;
    document.body.classList.add("viewing");
    if (other) {
      picture = null; failed = "";
      tiles = image.tiles ? makeTiles(image, redraw) : null;
      size = [0, 0];
      resize();
      fit();
    }
    choose(row >= 0 ? [row] : []);
    if (row >= 0) {
      if (hidden.has(image.kind[row])) { hidden.delete(image.kind[row]); filters(); }
      goTo(row);
    }
    if (tiles) return;
    try {
      const made = await load(i);
      if (isOpen() && image.i === i) picture = made;
    } catch (error) {
      failed = t("Cannot show this image:") + " " + error.message;
    }
    byId("fault").textContent = failed;
    redraw();
  }

  function close() {
    image = null; picture = null; tiles = null; chosen = new Set(); focus = -1;
    byId("viewer").hidden = true;
    document.body.classList.remove("viewing");
  }

  function choose(rows, add = false) {
    if (!add) chosen = new Set();
    for (const row of rows) if (chosen.has(row) && add) chosen.delete(row); else chosen.add(row);
    focus = rows.length ? rows[rows.length - 1] : -1;
    panel();
    cells.onChoose(image.i, focus);
    redraw();
  }

  /* The smallest box at a point. */
  function at(x, y) {
    let best = -1, least = Infinity;
    for (let row = 0; row < image.kind.length; row++) {
      if (image.kind[row] === GONE || !shown(image.kind[row])) continue;
      const [left, top, right, bottom] = toScreen(boxOf(image, row)), area = (right - left) * (bottom - top);
      if (x >= left - 4 && x <= right + 4 && y >= top - 4 && y <= bottom + 4 && area < least) { best = row; least = area; }
    }
    return best;
  }

  const spot = (event) => { const frame = stage.getBoundingClientRect(); return [event.clientX - frame.left, event.clientY - frame.top]; };
  const toImage = (x, y) => [(x - view.x) / view.k / aspect[0], (y - view.y) / view.k / aspect[1]];
  const within = (box) => [ROUND(Math.min(Math.max(box[0], 0), image.width)), ROUND(Math.min(Math.max(box[1], 0), image.height)), ROUND(Math.min(Math.max(box[2], 0), image.width)), ROUND(Math.min(Math.max(box[3], 0), image.height))];

  const pointers = new Map();
  let drag = null;
  stage.addEventListener("pointerdown", (event) => {
    if (event.button > 1 || event.target.closest("button")) return;
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    const here = spot(event);
    pointers.set(event.pointerId, here);
    if (pointers.size === 2) { drag = { kind: "pinch" }; return; }
    const start = toImage(...here), row = chosen.size === 1 ? [...chosen][0] : -1;
    drag = { kind: "pan", from: here, last: here, moved: false, start };
    if (drawing) drag.kind = "draw";
    else if (row >= 0 && image.kind[row] !== GONE) {
      const [left, top, right, bottom] = toScreen(boxOf(image, row)), [x, y] = here;
      if (Math.abs(x - right - 5) < 9 && Math.abs(y - bottom - 5) < 9) drag = { ...drag, kind: "resize", row, box: boxOf(image, row) };
      else if (x > left && x < right && y > top && y < bottom && !event.shiftKey) drag = { ...drag, kind: "move", row, box: boxOf(image, row) };
    }
  });
  stage.addEventListener("pointermove", (event) => {
    if (!drag || !pointers.has(event.pointerId)) return;
    const here = spot(event), before = pointers.get(event.pointerId);
    if (drag.kind === "pinch") {
      const other = [...pointers].find(([id]) => id !== event.pointerId);
      pointers.set(event.pointerId, here);
      if (!other) return;
      const apart = (p) => Math.hypot(p[0] - other[1][0], p[1] - other[1][1]);
      zoomAt(apart(here) / Math.max(apart(before), 1), (here[0] + other[1][0]) / 2, (here[1] + other[1][1]) / 2);
      return;
    }
    pointers.set(event.pointerId, here);
    if (Math.hypot(here[0] - drag.from[0], here[1] - drag.from[1]) > 4) drag.moved = true;
    if (drag.kind === "pan") pan(here[0] - drag.last[0], here[1] - drag.last[1]);
    else if (drag.moved) preview(toImage(...here));
    drag.last = here;
  });
  const preview = (now) => {
    const dx = now[0] - drag.start[0], dy = now[1] - drag.start[1];
    if (drag.kind === "draw") {
      drag.to = within([Math.min(drag.start[0], now[0]), Math.min(drag.start[1], now[1]), Math.max(drag.start[0], now[0]), Math.max(drag.start[1], now[1])]);
    } else {
      const [x1, y1, x2, y2] = drag.box;
      drag.to = within(drag.kind === "resize" ? [x1, y1, Math.max(x2 + dx, x1 + 1), Math.max(y2 + dy, y1 + 1)] : [x1 + dx, y1 + dy, x2 + dx, y2 + dy]);
      for (let side = 0; side < 4; side++) image.box[4 * drag.row + side] = drag.to[side];
    }
    paint();
    if (drag.kind === "draw") { const [l, t, r, b] = toScreen(drag.to); pen.lineWidth = 2; pen.strokeStyle = KINDS[KIND[drawing]].colour; pen.strokeRect(l, t, r - l, b - t); }
  };
  const release = (event) => {
    if (!pointers.delete(event.pointerId) || !drag) return;
    const done = drag;
    drag = null;
    if (done.kind === "pinch") return;
    const large = done.to && done.to[2] - done.to[0] >= 2 && done.to[3] - done.to[1] >= 2;
    if (done.kind === "draw") {
      if (large) { const row = addCell(image.i, done.to, drawing); if (row >= 0) choose([row]); }
      draw("");
    } else if ((done.kind === "move" || done.kind === "resize") && done.to) {
      refresh(image.i, done.row);
      if (large) correct([[image.i, done.row]], "move", "", done.to);
    } else if (!done.moved) {
      const row = at(...done.from);
      choose(row < 0 ? [] : [row], event.shiftKey || event.ctrlKey || event.metaKey);
    }
    redraw();
  };
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 240), ...spot(event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => { if (!drawing) zoomAt(2, ...spot(event)); });
  new ResizeObserver(resize).observe(stage);

  function draw(kind) { drawing = kind; byId("draw").value = kind; stage.classList.toggle("drawing", kind !== ""); }

  function filters() {
    const rows = byKind();
    byId("filters").replaceChildren(...KINDS.map((kind, index) => {
      const n = rows[index].length;
      if (!n && index !== KIND.rbc && !DATA.classes.includes(kind.name)) return "";
      const label = document.createElement("label"), box = document.createElement("input"), dot = document.createElement("i"), text = document.createElement("span"), number = document.createElement("b");
      box.type = "checkbox"; box.checked = shown(index); box.dataset.kind = kind.name;
      box.onchange = () => { if (box.checked) hidden.delete(index); else hidden.add(index); redraw(); };
      dot.style.background = kind.colour;
      text.textContent = kind.title; number.textContent = count(n);
      label.append(box, dot, text, number);
      return label;
    }).filter(Boolean));
  }

  function toggle(kind) {
    const index = KIND[kind];
    if (hidden.has(index)) hidden.delete(index); else hidden.add(index);
    filters();
    redraw();
  }

  /* Everything beside the image. */
  function panel() {
    if (!isOpen()) return;
    filters();
    byId("name").value = image.i;
    byId("about").textContent = image.about || "";
    byId("imagenotes").replaceChildren(...(image.notes || []).map((note) => { const line = document.createElement("li"); line.textContent = note; return line; }));
    const rows = [...chosen], one = rows.length === 1 ? rows[0] : -1;
    byId("pick").hidden = !rows.length;
    byId("hint").hidden = rows.length > 0;
    byId("chosen").textContent = one >= 0 ? KINDS[image.kind[one]].title : t("{n} cells", { n: count(rows.length) });
    byId("facts").replaceChildren(...(one >= 0 ? describe(image.i, one) : []).map((text) => { const line = document.createElement("li"); line.textContent = text; return line; }));
    byId("likely").replaceChildren(...(one >= 0 && image.likely && image.likely[one] ? image.likely[one] : []).map(([name, p]) => {
      const line = document.createElement("div"), text = document.createElement("span"), bar = document.createElement("i"), value = document.createElement("b");
      text.textContent = KINDS[KIND[name]].title; value.textContent = numbers.decimal(p, 2);
      bar.style.setProperty("--p", p); bar.style.background = KINDS[KIND[name]].colour;
      line.append(text, bar, value);
      return line;
    }));
    const kinds = new Set(rows.map((row) => image.kind[row]));
    for (const button of byId("kinds").children) button.setAttribute("aria-pressed", String(kinds.size === 1 && kinds.has(KIND[button.dataset.kind]) && rows.every((row) => correctionAt(image.i, row))));
  }

  const chosenCells = () => [...chosen].map((row) => [image.i, row]);
  return {
    open, close, isOpen, redraw, fit, pan, zoom: zoomAt, choose, draw, filters, toggle, panel, cells: chosenCells, shown, goTo, resize, paint,
    get image() { return image; }, get row() { return focus; },
    /* Pixels of the screen per µm; of the image, where its scale is unknown. */
    get scale() { return view.k * unit(); },
    match: (scale) => zoomAt(scale / (view.k * unit())),
    /* The lowest and the highest scale of this image alone; `limits` are others, in place of them. */
    get range() { return [fitted() * 0.5 * unit(), 24 * unit()]; },
    set limits(scales) { limits = scales; },
    /* Where a point of the image is in the window. */
    place: (x, y) => { const frame = stage.getBoundingClientRect(), [left, top] = toScreen([x, y, x, y]); return [frame.left + left, frame.top + top]; },
    set filter(value) { back.canvas.style.filter = value; },
    get drawing() { return drawing !== ""; },
    get boxes() { return boxes; }, set boxes(value) { boxes = value; byId("boxes").setAttribute("aria-pressed", String(value)); redraw(); },
  };
}
