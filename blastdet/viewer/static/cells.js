/* The cells of all images, and what a person corrects. Nothing is fetched here. */
"use strict";

import { numbersOf } from "./numbers.js";
import { sayerOf } from "./sentences.js";

/* `DATA` is what `page_data` makes. What follows `record` at the end is set from outside:
   `keep` is called with a step when corrections changed, `onLocked` instead of a correction while `locked`. */
export function makeCells(DATA) {
  const KINDS = DATA.kinds;
  const KIND = Object.fromEntries(KINDS.map((kind, index) => [kind.name, index]));
  const BY_KEY = Object.fromEntries(KINDS.filter((kind) => kind.key).map((kind) => [kind.key, kind.name]));
  const UNSURE = KIND.unsure, IGNORED = KIND.ignored, GONE = KIND.deleted;
  const ROUND = (value) => Math.round(value * 10) / 10;

  /* A text in the language of the page, with its values. */
  const t = (text, values = {}) => ((DATA.texts && DATA.texts[text]) || text).replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
  const numbers = numbersOf(DATA.language), { count, decimal } = numbers;

  /* Write a sentence that came with the data; one that has no translation says that it is English. */
  const sayer = sayerOf(DATA.texts || {}, DATA.models || [], numbers.figures);
  function say(element, text) {
    const found = sayer(text);
    element.textContent = found ?? text;
    if (text && found === null && DATA.language && DATA.language !== "en") element.lang = "en"; else element.removeAttribute("lang");
    return element;
  }

  const corrections = new Map(); // "image box" -> the latest correction of that cell
  const past = []; // for undo: lists of [key, image, row, correction before]

  /* Columns of an image: base boxes and kinds as the model or the annotations have them, and as they are now. */
  const images = DATA.images.map((image, i) => {
    const n = image.kind.length;
    return { ...image, i, base: n, first: image.box.slice(), was: image.kind.slice(), box: image.box.slice(), kind: image.kind.slice(), version: 0 };
  });

  const baseBox = (image, row) => image.first.slice(4 * row, 4 * row + 4);
  const boxOf = (image, row) => image.box.slice(4 * row, 4 * row + 4);
  const keyOf = (i, box) => i + " " + box.map((side) => side.toFixed(1)).join(" ");
  const keyAt = (i, row) => keyOf(i, baseBox(images[i], row));
  const correctionAt = (i, row) => corrections.get(keyAt(i, row));
  const isCell = (image, row) => image.kind[row] !== GONE && image.kind[row] !== IGNORED;
  const oldOf = (image, row) => (row < image.base && image.old ? image.old[row] : -1);
  const annotates = (i, name) => i + " annotates " + name;

  /* Kind of the cell itself, also where it is ignored or deleted. */
  function kindAt(i, row) {
    const image = images[i], now = correctionAt(i, row), was = row < image.base ? image.was[row] : UNSURE;
    if (now && now.kind) return now.kind;
    return KINDS[was !== IGNORED ? was : oldOf(image, row) >= 0 ? oldOf(image, row) : UNSURE].name;
  }

  /* What a cell looks like after its correction. */
  function refresh(i, row) {
    if (row < 0) return; // about the image
    const image = images[i], now = correctionAt(i, row);
    const box = now && now.to ? now.to : baseBox(image, row);
    for (let side = 0; side < 4; side++) image.box[4 * row + side] = box[side];
    const before = row < image.base ? image.was[row] : GONE;
    image.kind[row] = !now ? before : now.op === "delete" ? GONE : now.op === "ignore" ? IGNORED : now.kind === "" ? before : KIND[now.kind];
    image.version++;
  }

  const same = (a, b) => a.op === b.op && a.kind === b.kind && String(a.to || "") === String(b.to || "");

  function changed(step) {
    record.keep(step);
    record.onChange();
  }

  /* Record corrections of some cells as one step. `op` is class, ignore, delete, ok, move or forget; `to` is a new box. */
  function correct(cells, op, kind = "", to = null) {
    if (record.locked) { record.onLocked(); return 0; }
    const step = [];
    for (const [i, row] of cells) {
      const image = images[i], key = keyAt(i, row), before = corrections.get(key);
      if (op === "ok" && (image.kind[row] === UNSURE || (!before && image.kind[row] === GONE))) continue; // right as what?
      if (op === "forget" && !before) continue;
      const next = { i, row, op, kind, to: op === "delete" ? null : to || (before && before.to) || null, when: new Date().toISOString(), who: record.who() };
      if (op === "ignore" || op === "delete") next.kind = kindAt(i, row);
      if (op === "ok" || op === "move") { // as it is shown: what a correction said, the annotation, or what the model found
        if (before) { next.op = before.op; next.kind = before.kind; }
        else if (oldOf(image, row) >= 0) next.op = "ok";
        else { next.op = "class"; next.kind = image.kind[row] === UNSURE ? "wbc" : KINDS[image.kind[row]].name; }
      }
      if (op !== "forget" && before && same(before, next)) continue; // said already
      if (op === "forget") corrections.delete(key); else corrections.set(key, next);
      step.push([key, i, row, before]);
      refresh(i, row);
    }
    if (op === "forget") for (const i of new Set(cells.map(([i]) => i))) step.push(...reopen(i));
    if (step.length) { past.push(step); changed(step); }
    return step.length;
  }

  /* A class of an image is no longer complete where one of its cells was not looked at. */
  function reopen(i) {
    const step = [];
    for (const one of [...corrections.values()]) {
      if (one.i !== i || one.op !== "annotate" || !hasOpen(i, one.kind)) continue;
      step.push([annotates(i, one.kind), i, -1, one]);
      corrections.delete(annotates(i, one.kind));
    }
    return step;
  }

  /* Whether some cell that the model found was not looked at, and is of this class, or may be. */
  const hasOpen = (i, name) => images[i].was.some((was, row) => (KINDS[was].class === name || was === UNSURE) && !correctionAt(i, row));

  /* A cell identified by its first box: one drawn where another was first is that one. */
  function addCell(i, box, kind) {
    if (record.locked) { record.onLocked(); return -1; }
    const image = images[i], same = (at, side) => Math.abs(at - side) <= 0.5;
    for (let row = 0; row < image.kind.length; row++) {
      if (!baseBox(image, row).every((side, k) => same(side, box[k]))) continue;
      if (!boxOf(image, row).every((side, k) => same(side, box[k]))) return -1; // moved away from here
      correct([[i, row]], "class", kind);
      return row;
    }
    image.first.push(...box); image.box.push(...box); image.kind.push(GONE);
    const row = image.kind.length - 1;
    correct([[i, row]], "class", kind);
    return row;
  }

  function undo() {
    const step = record.locked ? null : past.pop();
    if (!step) return [];
    for (const [key, i, row, before] of step.reverse()) {
      if (before) corrections.set(key, before); else corrections.delete(key);
      refresh(i, row);
    }
    changed(step);
    return step;
  }

  /* A correction as in corrections.jsonl. */
  function rowOf(one) {
    const image = images[one.i];
    const about = { who: one.who || record.who(), when: one.when, image: image.name, image_sha256: image.sha256 };
    if (image.given) about.mpp = image.given; // a scale that the images do not state themselves
    if (one.op === "annotate") return { ...about, op: "annotate", old_class: one.kind, model_sha256: DATA.model_sha256 };
    const old = oldOf(image, one.row), kind = one.kind ? KINDS[KIND[one.kind]] : null;
    const named = one.op === "class" || (one.op === "ignore" && old < 0);
    const row = {
      ...about, box_xyxy: baseBox(image, one.row), op: one.op, old_class: old < 0 ? "" : KINDS[old].class,
      new_class: named && kind ? kind.class : "", new_box_xyxy: one.to, model_sha256: DATA.model_sha256,
    };
    if (one.op === "class" && kind && kind.type) row.new_type = kind.type;
    return row;
  }

  /* What a step left behind, as rows: the correction of each of its cells, or that it has none any more. */
  function rowsOf(step) {
    return [...new Map(step.map((one) => [one[0], one]))].map(([key, [, i, row]]) => {
      if (corrections.has(key)) return rowOf(corrections.get(key));
      const about = { i, row, who: "", when: new Date().toISOString(), to: null };
      if (row < 0) return { ...rowOf({ ...about, op: "annotate", kind: key.slice(annotates(i, "").length) }), op: "unannotate" };
      return rowOf({ ...about, op: "undo", kind: "" });
    });
  }

  /* The other way round: rows in the order in which they were made, as `restore` takes them. */
  function fromRows(rows) {
    const last = new Map();
    for (const row of rows) {
      const i = images.findIndex((image) => image.sha256 === row.image_sha256);
      if (i < 0) continue;
      const about = { i, when: row.when || "", who: row.who || "" };
      if (!row.box_xyxy) {
        if (row.op === "annotate") last.set(annotates(i, row.old_class), { ...about, row: -1, op: "annotate", kind: row.old_class, to: null, box: null });
        else last.delete(annotates(i, row.old_class));
        continue;
      }
      const box = row.box_xyxy.map(ROUND), key = keyOf(i, box);
      last.delete(key); // the last one counts, in its place
      if (row.op !== "undo") last.set(key, { ...about, op: row.op, kind: kindOf(row), to: row.new_box_xyxy || null, box });
    }
    return [...last.values()];
  }

  /* Name of the kind that a row gives its cell. */
  const kindOf = (row) => row.new_type || (row.op === "class" || row.op === "ignore" ? row.new_class : "") || "";

  const lineOf = (one) => JSON.stringify(rowOf(one)) + "\n";
  const exported = () => [...corrections.values()].map(lineOf).join("");

  /* Take over corrections that were kept: as `kept` gives them. */
  function restore(list) {
    const rows = images.map((image) => new Map(image.was.map((_, row) => [keyAt(image.i, row), row])));
    for (const one of list) {
      const image = images[one.i];
      if (image && one.op === "annotate") { const { box, ...rest } = one; corrections.set(annotates(one.i, one.kind), rest); continue; }
      if (!image || !Array.isArray(one.box)) continue;
      let row = rows[one.i].get(keyOf(one.i, one.box));
      if (row === undefined) {
        image.first.push(...one.box); image.box.push(...one.box); image.kind.push(GONE);
        row = image.kind.length - 1;
        rows[one.i].set(keyOf(one.i, one.box), row);
      }
      const { box, ...rest } = one;
      corrections.set(keyOf(one.i, box), { ...rest, row });
      refresh(one.i, row);
    }
    for (const image of images) reopen(image.i); // another threshold may have found more cells
  }

  /* All corrections, as `restore` takes them. */
  const kept = () => [...corrections.values()].map((one) => ({ ...one, box: one.row < 0 ? null : baseBox(images[one.i], one.row) }));

  /* Cells of these kinds that were not looked at yet become right; uncertain ones stay open. Returns how many stay. */
  function confirmImage(i, shown) {
    if (record.locked) { record.onLocked(); return 0; }
    const image = images[i], todo = [];
    let open = 0;
    for (let row = 0; row < image.base; row++) {
      if (!shown(image.kind[row]) || !isCell(image, row) || correctionAt(i, row)) continue;
      if (image.kind[row] === UNSURE) { open++; continue; }
      if (DATA.mode === "review" && oldOf(image, row) < 0) continue;
      todo.push([i, row]);
    }
    const known = todo.filter(([, row]) => oldOf(image, row) >= 0), fresh = todo.filter(([, row]) => oldOf(image, row) < 0);
    const step = [], steps = past.length, { keep, onChange } = record;
    record.keep = record.onChange = () => {}; // all of it is one step
    if (known.length) correct(known, "ok");
    const kinds = new Map();
    for (const cell of fresh) { const kind = image.kind[cell[1]]; kinds.set(kind, [...(kinds.get(kind) || []), cell]); }
    for (const [kind, cells] of kinds) correct(cells, "class", KINDS[kind].name);
    for (const some of past.splice(steps)) step.push(...some); // one step to undo
    // Complete is what the model looks for, and of which nothing is hidden; annotations say themselves what is complete.
    if (!open && DATA.mode !== "review") for (const name of DATA.classes) {
      const key = annotates(i, name);
      if (corrections.has(key) || hasOpen(i, name) || !KINDS.every((kind, index) => kind.class !== name || shown(index))) continue;
      step.push([key, i, -1, undefined]);
      corrections.set(key, { i, row: -1, op: "annotate", kind: name, to: null, when: new Date().toISOString(), who: record.who() });
    }
    Object.assign(record, { keep, onChange });
    if (step.length) past.push(step);
    changed(step);
    return open;
  }

  /* Reviewed and all white cells; in a review of annotations, of the cells in its views. */
  function progress() {
    let done = 0, all = 0;
    for (const image of images) {
      const rows = image.gallery || (image.gallery = [...image.was.keys()].filter((row) => KINDS[image.was[row]].white || (image.thumb && row in image.thumb)));
      all += rows.length;
      for (const row of rows) if (correctionAt(image.i, row)) done++;
    }
    return [done, all];
  }

  /* What is known of a cell, in lines. */
  function describe(i, row) {
    const image = images[i], box = boxOf(image, row), parts = [];
    if (row < image.base && image.text && image.text[row]) parts.push(image.text[row]);
    const now = correctionAt(i, row);
    if (now) parts.push(t(now.op === "delete" ? "deleted by you" : now.op === "ignore" ? "ignored by you" : row < image.base ? "reviewed by you" : "drawn by you"));
    if (row < image.base) {
      if (image.unlike && image.unlike.includes(row)) parts.push(t("unlike the training data"));
      if (image.blast && image.blast[row] !== null) parts.push(t("blast probability") + " " + decimal(image.blast[row], 2));
      if (image.score) parts.push(t("score") + " " + decimal(image.score[row], 2));
    }
    if (image.mpp) parts.push(decimal((box[2] - box[0]) * image.mpp[0], 1) + " × " + decimal((box[3] - box[1]) * image.mpp[1], 1) + " µm");
    return parts;
  }

  /* The probability to print beside the name of a cell: beside types, that of "other wbc" would be of a blast. */
  const hasTypes = KINDS.some((kind) => kind.type);
  function printed(image, row) {
    const p = row < image.base && image.p ? image.p[row] : null, kind = KINDS[image.kind[row]];
    return p === undefined || image.kind[row] === UNSURE || (hasTypes && kind.name === "wbc") ? null : p;
  }

  /* Doubt of a cell from 0 to 1, for sorting. */
  function doubt(image, row) {
    if (row >= image.base) return 0;
    const p = image.p ? image.p[row] : null;
    if (image.unlike && image.unlike.includes(row)) return 2;
    if (p === null || p === undefined) return image.score ? 1 - image.score[row] : 0;
    const kind = KINDS[image.was[row]];
    return kind.type || kind.name === "blast" ? 1 - p : 1 - 2 * Math.abs(p - 0.5);
  }

  const record = {
    DATA, KINDS, KIND, BY_KEY, UNSURE, IGNORED, GONE, ROUND, corrections, past, images, t, numbers, say, count,
    annotates, baseBox, boxOf, keyAt, correctionAt, isCell, oldOf, kindAt, hasOpen, refresh, correct, addCell, undo,
    rowsOf, fromRows, exported, restore, kept, confirmImage, progress, describe, doubt, printed,
    who: () => "", keep: () => {}, onChange: () => {}, onChoose: () => {}, onZoom: () => {}, locked: false, onLocked: () => {},
  };
  return record;
}
