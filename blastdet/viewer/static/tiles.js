/* An image too large for one file, drawn from tiles: the finest that the screen needs, coarser ones until they come. */
"use strict";

const KEPT = 160; // tiles in memory, about a megabyte each
const AT_ONCE = 6; // requests
const AGAIN_MS = 3000; // until a tile that a busy service refused is asked for again

/* `image.tiles` names the address of the tiles, their side in pixels, and the columns and rows of each zoom. */
export function makeTiles(image, redraw) {
  const { url, tile, levels } = image.tiles, top = levels.length - 1;
  const kept = new Map(); // "z/x/y" -> bitmap, the last used at the end; null where it failed
  const asking = new Set();
  let wanted = [];

  function use(key) {
    const found = kept.get(key);
    if (found === undefined) return undefined;
    kept.delete(key);
    kept.set(key, found);
    return found;
  }

  async function fetchOne(key) {
    let made = null, passes = true;
    try {
      const answer = await fetch(url + "/" + key);
      passes = answer.status === 429 || answer.status >= 500;
      if (answer.ok) made = await createImageBitmap(await answer.blob());
    } catch { /* a coarser tile stays */ }
    if (!made && passes) { await new Promise((done) => setTimeout(done, AGAIN_MS)); return; } // if it is still in sight, it is missing
    kept.set(key, made);
    for (const old of kept.keys()) {
      if (kept.size <= KEPT) break;
      if (old === "0/0/0") continue; // always something to show
      const gone = kept.get(old);
      kept.delete(old);
      if (gone) gone.close();
    }
  }

  function pump() {
    while (asking.size < AT_ONCE && wanted.length) {
      const key = wanted.shift();
      if (kept.has(key) || asking.has(key)) continue;
      asking.add(key);
      fetchOne(key).then(() => { asking.delete(key); redraw(); pump(); });
    }
  }

  /* `at`: place of the image on the screen, its magnification each way, size of the screen, device pixels per pixel. */
  function paint(pen, at) {
    const fine = Math.max(at.kx, at.ky) * at.ratio;
    const zoom = Math.min(top, Math.max(0, top + Math.ceil(Math.log2(Math.max(fine, 1e-9)) - 0.3)));
    const side = tile * 2 ** (top - zoom), { columns, rows } = levels[zoom];
    const first = [Math.floor(-at.x / at.kx / side), Math.floor(-at.y / at.ky / side)];
    const last = [Math.floor((at.size[0] - at.x) / at.kx / side), Math.floor((at.size[1] - at.y) / at.ky / side)];
    const missing = zoom > 0 && !kept.has("0/0/0") ? ["0/0/0"] : [];
    const middle = [(first[0] + last[0]) / 2, (first[1] + last[1]) / 2], places = [];
    for (let y = Math.max(first[1], 0); y <= Math.min(last[1], rows - 1); y++) for (let x = Math.max(first[0], 0); x <= Math.min(last[0], columns - 1); x++) places.push([x, y]);
    places.sort((a, b) => Math.hypot(a[0] - middle[0], a[1] - middle[1]) - Math.hypot(b[0] - middle[0], b[1] - middle[1]));
    for (const [x, y] of places) {
      if (use(zoom + "/" + x + "/" + y) === undefined) missing.push(zoom + "/" + x + "/" + y);
      place(pen, at, zoom, x, y);
    }
    wanted = missing; // what was in sight before and is not now is not asked for any more
    pump();
  }

  /* The part of the image under one tile, from the finest tile that is there. */
  function place(pen, at, zoom, x, y) {
    const side = tile * 2 ** (top - zoom);
    const box = [x * side, y * side, Math.min((x + 1) * side, image.width), Math.min((y + 1) * side, image.height)];
    for (let z = zoom, cx = x, cy = y; z >= 0; z--, cx >>= 1, cy >>= 1) {
      const found = kept.get(z + "/" + cx + "/" + cy);
      if (!found) continue;
      const coarse = tile * 2 ** (top - z);
      const [left, up] = [cx * coarse, cy * coarse];
      const wide = Math.min(coarse, image.width - left), high = Math.min(coarse, image.height - up);
      const sx = found.width / wide, sy = found.height / high;
      const x1 = Math.round((box[0] * at.kx + at.x) * at.ratio) / at.ratio, x2 = Math.round((box[2] * at.kx + at.x) * at.ratio) / at.ratio;
      const y1 = Math.round((box[1] * at.ky + at.y) * at.ratio) / at.ratio, y2 = Math.round((box[3] * at.ky + at.y) * at.ratio) / at.ratio;
      pen.drawImage(found, (box[0] - left) * sx, (box[1] - up) * sy, (box[2] - box[0]) * sx, (box[3] - box[1]) * sy, x1, y1, x2 - x1, y2 - y1);
      return;
    }
  }

  return { paint };
}
