/* On paper: each sheet says what it is of, what is folded is opened, and the picture is the one on the screen. */
"use strict";

import { byId, page, t } from "./api.js";

const quoted = (text) => '"' + text.replace(/["\\<\n\r\f]/g, (sign) => "\\" + sign.codePointAt(0).toString(16) + " ") + '"';

/* Margins of the sheets. A style that a script makes, because a page has no inline style. */
function margins() {
  const title = document.querySelector("h1"), notice = document.querySelector(".research");
  if (!title || !notice) return;
  const font = "font: 8pt system-ui, 'DejaVu Sans', sans-serif; color: #444;", about = byId("main").dataset.about || "";
  const boxes = { "top-left": quoted(title.textContent), "top-right": quoted(about), "bottom-left": quoted(notice.textContent), "bottom-right": 'counter(page) " / " counter(pages)' };
  const style = new CSSStyleSheet();
  style.replaceSync("@page { " + Object.entries(boxes).map(([where, text]) => "@" + where + " { content: " + text + "; " + (where === "top-left" ? "overflow-wrap: anywhere; " : "white-space: nowrap; ") + font + " }").join(" ") + " }");
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, style];
}
margins();

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not(.menu, [open])")];
  for (const one of folded) one.open = true;
  for (const figure of document.querySelectorAll("figure.paper")) draw(figure);
  byId("printed-at") && (byId("printed-at").textContent = t("Printed {when}", { when: new Date().toLocaleString(page.language, { dateStyle: "medium", timeStyle: "short" }) }));
});
addEventListener("afterprint", () => { for (const one of folded) one.open = false; });

/* What the viewer of a figure shows of its image, with boxes, without the dark ground around it, and a scale bar. */
function draw(figure) {
  const part = (name) => byId(figure.dataset.of + name), layers = [part("picture"), part("canvas")], paper = figure.querySelector("canvas");
  const frame = layers[0].getBoundingClientRect(), ruler = part("ruler");
  figure.hidden = !figure.corners || !frame.width;
  if (figure.hidden) return;
  const k = layers[0].width / frame.width, [start, end] = figure.corners();
  const x = Math.max(start[0], frame.left), y = Math.max(start[1], frame.top), w = Math.min(end[0], frame.right) - x, h = Math.min(end[1], frame.bottom) - y;
  figure.hidden = w < 1 || h < 1;
  if (figure.hidden) return;
  Object.assign(paper, { width: Math.round(k * w), height: Math.round(k * h) });
  const pen = paper.getContext("2d");
  const area = [k * (x - frame.left), k * (y - frame.top), paper.width, paper.height]; // cut out: browsers print what is drawn beyond a canvas
  for (const one of layers) pen.drawImage(one, ...area, 0, 0, paper.width, paper.height);
  figure.querySelector("figcaption").textContent = t("As on the screen.") + (ruler.textContent ? " " + t("The bar is {length} long.", { length: ruler.textContent }) : "");
  if (!ruler.textContent) return;
  const long = k * ruler.offsetWidth, bottom = paper.height - 10 * k;
  pen.fillStyle = "#fff";
  pen.fillRect(10 * k, bottom - 10 * k, long + 8 * k, 12 * k);
  pen.fillStyle = "#000";
  pen.fillRect(14 * k, bottom - 6 * k, long, 4 * k);
}
