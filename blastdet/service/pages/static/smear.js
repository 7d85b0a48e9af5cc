/* A smear: its result in the viewer, corrections, job, sharing, signing, deletion. */
"use strict";

import { allCorrections, announce, bindOptions, byId, call, follow, make, number, options, page, progressOf, remarksIn, t, why } from "./api.js";
import { historyOf } from "./history.js";
import { startPage } from "./page.js";
import { keepOnServer } from "./saving.js";

const { smear, analysis } = page, base = "/smears/" + smear.id;
let keeper = null, openText = () => "";
const fault = (error) => { byId("fault-of-page").textContent = error.message; };

/* Parts of the page of a run that this page does not have. */
const missing = new Map();
function find(name) {
  const found = byId(name);
  if (found) return found;
  if (!missing.has(name)) missing.set(name, make("div"));
  return missing.get(name);
}

async function show() {
  const { json: data } = await call("GET", "/analyses/" + analysis + "/view");
  const model = data.differential && Object.fromEntries(data.differential.rows.map((row) => [row.kind, row.n]));
  const given = "scale measured on {1} red cells only; pass --mpp if it is known"; // in the words of the command line
  const texts = { [given]: t("scale measured on {1} red cells only; analyze again with the scale if it is known"), ...page.texts };
  Object.assign(data, { language: page.language, texts, title: document.title, corrected: data.corrections.length > 0 });
  for (const kind of data.kinds) kind.title = t(kind.title);
  take(data, data.now, model);
  byId("loading").hidden = true;
  byId("work").hidden = false;
  keeper = keepOnServer(analysis, data, async (rows) => {
    history(rows);
    data.corrected = shown.corrections.size > 0;
    newAgain();
    take(data, (await call("GET", "/analyses/" + analysis + "/view?cells=false")).json.now, model);
    shown.show();
    doubt();
  });
  const shown = startPage(data, { byId: find, keeper, inline: true });
  const history = (rows) => { byId("export-corrections").disabled = !rows.length; list(rows); };
  const list = (rows) => byId("history").replaceChildren(...(rows.length ? historyOf(shown.cells, rows, go) : [make("li", t("No changes yet."), "soft")]));
  const go = (box) => {
    const image = shown.images[0], at = image.first.findIndex((side, k) => k % 4 === 0 && box.every((value, j) => Math.abs(image.first[k + j] - value) < 0.06));
    if (at >= 0) { shown.viewer.open(0, at / 4); byId("viewer").scrollIntoView({ block: "nearest" }); }
  };
  shown.cells.say(byId("source"), byId("source").textContent);
  history(data.corrections);
  lock(shown);
  const doubt = () => {
    byId("doubt").replaceChildren(...doubts(shown.images[0], shown.UNSURE, data));
    const [done, all] = shown.progress(), isShown = smear.status !== "new" && smear.last_analysis === analysis && done < all;
    byId("signed-left").textContent = isShown ? t("{left} of {n} not reviewed", { left: number(all - done), n: number(all) }) : "";
  };
  doubt();
  openText = () => openOf(shown);
  byId("whole").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : byId("viewer").requestFullscreen());
  document.addEventListener("fullscreenchange", () => byId("whole").setAttribute("aria-pressed", String(Boolean(document.fullscreenElement))));
  byId("export-corrections").onclick = exportCorrections;
  document.querySelector("figure.paper").corners = () => [shown.viewer.place(0, 0), shown.viewer.place(shown.images[0].width, shown.images[0].height)];
  Object.assign(window, { viewer: shown.viewer, shown }); // for the console
  document.body.dataset.ready = "yes";
}

/* A reviewed result that is corrected is to be reviewed again, as the service says. */
function newAgain() {
  if (smear.status !== "reviewed" || smear.last_analysis !== analysis) return;
  smear.status = "new";
  Object.assign(byId("status"), { className: "status new", textContent: t("new") });
  byId("signed").textContent = "";
  document.querySelector("[data-status=reviewed]").hidden = false;
}

/* The figures as corrected; beside them, what the model counted. */
function take(data, now, model) {
  Object.assign(data, now);
  if (data.differential) data.differential.model = model || {};
}

/* A signed smear, or one that is shared for reading, is looked at only. */
function lock(shown) {
  const reason = smear.may === "read" ? t("This smear is shared with you for reading.") : smear.status === "signed" ? t("This smear is signed. Reopen it to correct it.") : "";
  if (!reason) return;
  shown.cells.locked = true;
  shown.cells.onLocked = () => { shown.tell(reason); announce(reason); };
  document.body.classList.add("locked");
  shown.tell(reason);
}

const unsureCells = (n) => (n === 0 ? t("no unsure cells") : n === 1 ? t("1 unsure cell") : t("{n} unsure cells", { n: number(n) }));
const countOf = (image, kind) => image.kind.filter((one) => one === kind).length;

/* What is left to review, for the question before one signs; empty where nothing is. */
function openOf(shown) {
  const [done, all] = shown.progress(), unsure = countOf(shown.images[0], shown.UNSURE);
  const parts = [unsure ? unsureCells(unsure) : "", done < all ? t("{left} of {n} white cells not reviewed", { left: number(all - done), n: number(all) }) : ""];
  return parts.filter(Boolean).join("; ");
}

function doubts(image, unsure, data) {
  const parts = [], n = countOf(image, unsure);
  if (data.unknown) parts.push(make("b", t("unknown stain"), "doubtful"));
  parts.push(make("span", unsureCells(n), n ? "doubtful" : ""));
  const unlike = (image.unlike || []).length;
  if (unlike) parts.push(make("span", t("{n} unlike the training data", { n: number(unlike) }), "doubtful"));
  const remarks = remarksIn(data.remarks);
  if (remarks) parts.push(make("span", remarks, "doubtful"));
  return parts.flatMap((part, k) => (k ? [" · ", part] : [part]));
}

async function exportCorrections() {
  const rows = await allCorrections("/analyses/" + analysis + "/corrections");
  const link = make("a");
  link.href = URL.createObjectURL(new Blob(rows.map((row) => JSON.stringify(row) + "\n"), { type: "application/jsonl" }));
  link.download = "corrections.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/* A job under way, or why the last one failed. */
function watch(job) {
  byId("job").hidden = false;
  byId("cancel").onclick = () => call("POST", "/jobs/" + job.id + "/cancel").catch(fault);
  const bar = byId("job-progress");
  let spoken = -1;
  const changed = (now) => {
    if (now.state === "done") { location.href = location.pathname + "?analysis=" + now.analysis; return; }
    if (now.state === "failed" || now.state === "cancelled") {
      bar.hidden = byId("cancel").hidden = true;
      byId("job").classList.add("failed");
      byId("job-text").textContent = now.state === "failed" ? why(now.error) : t("cancelled");
      if (/could not determine the scale/.test(now.error)) giveScale();
      return;
    }
    const [text, part] = progressOf(now), step = Math.floor((part || 0) * 4);
    byId("job-text").setAttribute("aria-live", step === spoken ? "off" : "polite"); // not every per cent aloud
    spoken = step;
    byId("job-text").textContent = text;
    if (part === null) bar.removeAttribute("value"); else bar.value = part;
  };
  const empty = byId("no-result");
  if (empty) empty.hidden = true; // the job says what is the matter
  changed(job);
  if (job.state === "queued" || job.state === "running") follow(job.id, changed);
}

/* The next analysis needs a scale: its field is open, and has the focus in the dialog. */
function giveScale() {
  const scale = byId("again-scale");
  if (!scale) return; // shared for reading
  scale.value = "given";
  scale.onchange();
}

function bind(id, event, run) { const found = byId(id); if (found) found.addEventListener(event, run); }

bind("analyze", "submit", async (event) => {
  event.preventDefault();
  try {
    const { json: job } = await call("POST", base + "/analyses", options("again"));
    byId("again").close();
    byId("job").classList.remove("failed");
    byId("job-progress").hidden = byId("cancel").hidden = false;
    watch(job);
  } catch (error) { byId("again").close(); fault(error); }
});
bindOptions("again");
if (page.job) watch(page.job);
bind("rename", "submit", async (event) => {
  event.preventDefault();
  try {
    await call("PATCH", base, { name: byId("new-name").value.trim() });
    location.reload();
  } catch (error) { byId("rename-fault").textContent = error.message; }
});
bind("results", "change", () => { location.href = location.pathname + "?analysis=" + byId("results").value; });
bind("print", "click", () => window.print());

for (const button of document.querySelectorAll("[data-status]")) button.onclick = () => move(button.dataset.status);
bind("sign-anyway", "click", () => { byId("signing").close(); move("signed", true); });

/* To sign although cells are left is asked about first. */
async function move(status, isSure = false) {
  try {
    const version = keeper && keeper.version(); // a review is of what was seen; to reopen is of the smear
    if (!keeper && status !== "new") { // the result was not shown yet; where it cannot be shown, the page says why
      if (!byId("loading").hidden) fault(new Error(t("The cells are on their way.")));
      return;
    }
    if (keeper && version === null) { fault(new Error(keeper.why())); return; }
    if (status === "signed" && openText() && !isSure) {
      byId("signing-text").textContent = openText() + ".";
      byId("signing").showModal();
      return;
    }
    await call("PATCH", base, { status, ...(status !== "new" && { analysis, version }) });
    location.reload();
  } catch (error) { fault(error); }
}

bind("delete", "click", async () => {
  try {
    await call("DELETE", base);
    location.href = "/";
  } catch (error) { byId("delete-fault").textContent = error.message; }
});

async function shares() {
  const { json } = await call("GET", base + "/shares");
  byId("share-none").hidden = json.length > 0;
  byId("shares").replaceChildren(...json.map((one) => {
    const line = make("li"), end = make("button", t("Stop sharing"));
    end.type = "button";
    end.setAttribute("aria-label", t("Stop sharing with {user}", { user: one.user }));
    end.onclick = () => sharing("DELETE", one.user);
    line.append(make("span", one.user + " – " + t(one.may === "write" ? "correct and sign" : "read")), end);
    return line;
  }));
}

async function sharing(method, user, body) {
  byId("share-fault").textContent = "";
  try {
    await call(method, base + "/shares/" + encodeURIComponent(user), body);
    await shares();
    byId("share-user").value = "";
    byId("share-user").focus();
  } catch (error) { byId("share-fault").textContent = error.message; }
}
bind("share", "submit", (event) => { event.preventDefault(); sharing("PUT", byId("share-user").value.trim(), { may: byId("share-may").value }); });
const opener = document.querySelector("[data-dialog=sharing]");
if (opener) opener.addEventListener("click", () => shares().catch((error) => { byId("share-fault").textContent = error.message; }));

if (analysis) show().catch((error) => { byId("loading").hidden = true; fault(error); throw error; });
else document.body.dataset.ready = "yes";
