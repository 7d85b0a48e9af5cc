/* Who changed what, the latest first. */
"use strict";

import { make, moment, number, t } from "./api.js";

/* `rows`: corrections as the service keeps them; `show` brings a cell into view. */
export function historyOf(cells, rows, show) {
  const steps = [], speak = speaker(cells);
  for (const row of rows) {
    const what = speak(row), last = steps[steps.length - 1];
    if (last && last.who === row.who && last.when === row.when && last.what === what) last.rows.push(row);
    else steps.push({ who: row.who, when: row.when, what, rows: [row] });
  }
  return steps.reverse().slice(0, 200).map((step) => {
    const line = make("li"), n = step.rows.length, box = step.rows[0].box_xyxy;
    const text = box ? (n === 1 ? t("1 cell") : t("{n} cells", { n: number(n) })) + ": " + step.what : step.what;
    const words = make(box ? "button" : "span", text, box ? "link" : "");
    if (box) { words.type = "button"; words.onclick = () => show(box); }
    line.append(words, make("small", step.who + ", " + moment(step.when)));
    return line;
  });
}

/* What each row did to its cell, in words: a confirmation, a change and an undo differ. Rows come in their order. */
function speaker(cells) {
  const { KINDS, KIND, images } = cells, image = images[0], now = new Map(), was = new Map();
  const place = (box) => box.map((side) => side.toFixed(1)).join(" ");
  for (let row = 0; row < image.base; row++) was.set(place(image.first.slice(4 * row, 4 * row + 4)), KINDS[image.was[row]].title);
  return (row) => {
    if (!row.box_xyxy) return complete(row);
    const key = place(row.box_xyxy), before = now.get(key) || { title: was.get(key) || "", to: "" };
    const kind = KINDS[KIND[row.new_type || row.new_class]], words = { delete: t("no cell"), ignore: t("ignored") };
    if (row.op === "undo") {
      now.delete(key);
      return was.has(key) ? t("undone, {type} again", { type: was.get(key) }) : t("undone, not there again");
    }
    const title = words[row.op] || (row.op === "class" ? (kind ? kind.title : row.new_class) : before.title), to = String(row.new_box_xyxy || "");
    const earlier = before.earlier;
    if (earlier && earlier.title === title && earlier.to === to) { // the step before came back
      now.set(key, earlier);
      return t("undone, {type} again", { type: title });
    }
    now.set(key, { title, to, earlier: now.get(key) });
    if (!before.title) return t("added, {type}", { type: title });
    if (title !== before.title) return before.title + " → " + title;
    return to !== before.to ? t("{type}, moved", { type: title }) : t("{type} confirmed", { type: title });
  };
}

/* That all cells of a class are marked, or no longer. */
function complete(row) {
  const all = {
    wbc: t("All white cells of the image are marked"), blast: t("All blasts of the image are marked"),
    rbc: t("All red cells of the image are marked"), platelet: t("All platelets of the image are marked"),
  }[row.old_class] || row.old_class;
  return row.op === "annotate" ? all : t("No longer: {what}", { what: all });
}
