/* Who changed what, the latest first. */
"use strict";

import { make, moment, number, t } from "./api.js";

/* `rows`: corrections as the service keeps them; `show` brings a cell into view. */
export function historyOf(cells, rows, show) {
  const steps = [];
  for (const row of rows) {
    const what = spoken(cells, row), last = steps[steps.length - 1];
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

function spoken(cells, row) {
  const kind = cells.KINDS[cells.KIND[row.new_type || row.new_class]];
  if (row.op === "class") return kind ? kind.title : row.new_class;
  const words = { delete: "no cell", ignore: "ignored", ok: "right", undo: "as before" };
  if (words[row.op]) return t(words[row.op]);
  return t(row.op === "annotate" ? "complete: {name}" : "not complete: {name}", { name: t(row.old_class) });
}
