/* What the pages share: the data in the page, texts, and calls of the interface under /api/v1. */
"use strict";

import { numbersOf } from "./numbers.js";
import { plain } from "./plain.js";

export const page = JSON.parse(document.getElementById("page-data").textContent);
export const byId = (id) => document.getElementById(id);
export const t = (text, values = {}) => ((page.texts && page.texts[text]) || text).replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
export const numbers = numbersOf(page.language), number = numbers.count;
export const make = (tag, text = "", kind = "") => {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

/* Why something failed, for people. */
export const why = (line, status = 0) => plain(t, status, line);

/* An answer that is an error, with a sentence for people. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

export const headers = (more = {}) => (page.csrf ? { "x-csrf-token": page.csrf, ...more } : more);

/* Call the interface; `body` becomes JSON. Without a connection: status 0. */
export async function call(method, path, body, more = {}) {
  let answer;
  try {
    answer = await fetch("/api/v1" + path, {
      method,
      headers: headers(body === undefined ? more : { "content-type": "application/json", ...more }),
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch { throw new Refused(0, t("The service does not answer. Is the network there?")); }
  if (answer.status === 401 && page.auth === "users" && location.pathname !== "/login") {
    location.href = "/login?next=" + encodeURIComponent(location.pathname + location.search);
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, why(said.error || "", answer.status));
  }
  return { json: answer.status === 204 ? null : await answer.json(), headers: answer.headers, status: answer.status };
}

/* The history at an address, which comes in pages. */
export async function allCorrections(where) {
  const rows = [];
  for (let next = null; ;) {
    const { json } = await call("GET", where + (next ? "?after=" + next : ""));
    rows.push(...json.corrections);
    next = json.next;
    if (!next) return rows;
  }
}

/* Times in the zone of the browser. */
export function local(part) {
  for (const time of part.querySelectorAll("time[datetime]")) if (time.dateTime) time.textContent = moment(time.dateTime);
  for (const one of part.querySelectorAll("option[data-time]")) one.textContent = one.textContent.replace(/[^,]*$/, " " + moment(one.dataset.time)) + (one.dataset.more || "");
}

/* A part of the page as it is now, in place of the one that is shown. */
export async function renew(id) {
  const answer = await fetch(location.href), found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(id);
  if (!found) return;
  local(found);
  byId(id).replaceWith(found);
}

/* How many remarks a result has, in words; that people reviewed it is none. Empty where there are none. */
export function remarksIn(lines) {
  const n = (lines || []).filter((line) => !line.startsWith("reviewed by people:")).length;
  return n === 0 ? "" : n === 1 ? t("1 remark") : t("{n} remarks", { n: number(n) });
}

/* Read out by a screen reader. */
export function announce(text) { byId("announce").textContent = text; }

/* Seconds as people say them. */
export function duration(seconds) {
  if (seconds < 90) return t("{n} s", { n: Math.max(1, Math.round(seconds)) });
  if (seconds < 5400) return t("{n} min", { n: Math.round(seconds / 60) });
  return t("{n} h", { n: numbers.decimal(seconds / 3600, 1) });
}

export function moment(iso) {
  return new Date(iso).toLocaleString(page.language, { dateStyle: "medium", timeStyle: "short" });
}

/* Follow a job: `changed` gets it each time, until it is over. */
export function follow(id, changed, pause = 5) {
  const events = new EventSource("/api/v1/jobs/" + id + "/events");
  const seen = (event) => {
    const job = JSON.parse(event.data);
    if (event.type !== "progress") events.close(); // else the browser would ask again
    changed(job);
  };
  for (const name of ["progress", "done", "failed", "cancelled"]) events.addEventListener(name, seen);
  events.onerror = () => { // refused, as too many streams are: the browser asks again only where the connection broke
    if (events.readyState === EventSource.CLOSED) setTimeout(() => follow(id, changed, Math.min(2 * pause, 60)), 1000 * pause);
  };
}

/* How far a job is, in words and as a part of 1 (null: unknown). */
export function progressOf(job) {
  if (job.state === "queued") return [t("waiting"), null];
  if (!job.total) return [t("reading the image"), null];
  const left = job.seconds_left === null ? "" : ", " + t("{time} left", { time: duration(job.seconds_left) });
  return [numbers.percent(job.done / job.total) + left, job.done / job.total];
}

/* What to compute, from the fields of `_options.jinja`. */
export function options(prefix) {
  const scale = byId(prefix + "-scale").value, wanted = { weights: byId(prefix + "-weights").value };
  if (scale === "auto") wanted.mpp = "auto";
  if (scale === "given") wanted.mpp = decimalOf(byId(prefix + "-mpp").value);
  return wanted;
}

/* A number as people of any language type it: 0.1 and 0,1 are the same. NaN where it is none. */
export function decimalOf(text) {
  const typed = text.trim();
  return /^\d*[.,]?\d+$/.test(typed) ? Number(typed.replace(",", ".")) : NaN;
}

export function bindOptions(prefix) {
  const scale = byId(prefix + "-scale"), field = byId(prefix + "-mpp");
  if (!scale) return;
  const check = () => {
    const mpp = decimalOf(field.value), right = scale.value !== "given" || (mpp >= 0.001 && mpp <= 100);
    field.setCustomValidity(right ? "" : t("Type the scale in µm/px, such as {example}.", { example: numbers.decimal(0.1, 1) }));
  };
  field.oninput = check;
  scale.onchange = () => {
    byId(prefix + "-mpp-field").hidden = scale.value !== "given";
    field.autofocus = scale.value === "given"; // of a dialog that is opened
    check();
    if (scale.value === "given" && document.activeElement === scale) field.focus();
  };
}
