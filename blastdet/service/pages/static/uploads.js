/* Files on their way to the service: small ones at once, large ones in pieces that go on where they broke off. */
"use strict";

import { Refused, call, headers, page, t, why } from "./api.js";

const PIECE = 8 * 2 ** 20;
const AT_ONCE = PIECE; // larger files go in pieces
const TRIES = 8;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/* A request with the progress of its body, which fetch does not tell. */
function send(method, url, body, more, sent, stop) {
  return new Promise((done, fail) => {
    const request = new XMLHttpRequest();
    request.open(method, url);
    for (const [name, value] of Object.entries(headers(more))) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => sent(event.loaded);
    request.onload = () => {
      let said = null;
      try { said = JSON.parse(request.responseText); } catch { /* no body */ }
      if (request.status >= 200 && request.status < 300) done({ json: said, header: (name) => request.getResponseHeader(name) });
      else fail(new Refused(request.status, why((said && said.error) || "", request.status)));
    };
    request.onerror = () => fail(new Refused(0, t("The connection broke off.")));
    request.onabort = () => fail(new Refused(-1, t("Cancelled.")));
    stop.aborts.add(request);
    request.onloadend = () => stop.aborts.delete(request);
    request.send(body);
  });
}

/* The name of the file and what tells it from others, for going on after a reload of the page. */
const PREFIX = "blastdet upload ";
const keyOf = (file) => PREFIX + [file.name, file.size, file.lastModified].join(" ");
const kept = (file) => { try { return localStorage.getItem(keyOf(file)); } catch { return null; } };
const keep = (file, url) => { try { if (url) localStorage.setItem(keyOf(file), url); else localStorage.removeItem(keyOf(file)); } catch { /* starts anew */ } };
const encoded = (name) => btoa(String.fromCharCode(...new TextEncoder().encode(name)));

/* Upload a file; `sent` gets the bytes that have arrived. Returns the id of the smear. `stop.now()` ends it. */
export async function upload(file, sent, stop) {
  stop.aborts = new Set();
  stop.now = () => { stop.done = true; for (const request of stop.aborts) request.abort(); };
  if (page.max_bytes && file.size > page.max_bytes) throw new Refused(413, t("The file is larger than this service takes."));
  if (file.size <= AT_ONCE) {
    const answer = await again(stop, () => send("POST", "/api/v1/smears?name=" + encodeURIComponent(file.name.slice(-250)), file, { "content-type": "application/octet-stream" }, sent, stop));
    return answer.json.id;
  }
  return inPieces(file, sent, stop);
}

async function again(stop, what) {
  for (let n = 0; ; n++) {
    try { return await what(); } catch (error) {
      const passing = [0, 423, 429, 502, 503, 504].includes(error.status);
      if (!passing || stop.done || n >= TRIES) throw error;
      await pause(Math.min(2 ** n, 20));
    }
  }
}

async function inPieces(file, sent, stop) {
  const tus = { "Tus-Resumable": "1.0.0" };
  let url = kept(file), at = null;
  if (url) at = await again(stop, () => state(url)).catch((error) => { if (error.status !== 404) throw error; }); // else it begins anew
  if (!at) {
    const made = await again(stop, () => send("POST", "/api/v1/uploads", null, { ...tus, "Upload-Length": String(file.size), "Upload-Metadata": "filename " + encoded(file.name.slice(-200)) }, () => {}, stop));
    url = made.header("Location");
    keep(file, url);
    at = { offset: 0, smear: null };
  }
  while (!at.smear) {
    const offset = at.offset;
    sent(offset);
    try {
      await send("PATCH", url, file.slice(offset, offset + PIECE), { ...tus, "Upload-Offset": String(offset), "Content-Type": "application/offset+octet-stream" }, (n) => sent(offset + n), stop);
    } catch (error) {
      if (stop.done) { await call("DELETE", url.replace("/api/v1", "")).catch(() => {}); keep(file, null); throw error; }
      if (![0, 409, 423, 429, 502, 503, 504].includes(error.status)) {
        if (![401, 500, 507].includes(error.status)) keep(file, null); // else the same file goes on, after a log-in for example
        throw error;
      }
      await pause(1);
    }
    at = await again(stop, () => state(url));
  }
  keep(file, null);
  return at.smear;
}

const state = async (url) => (await call("GET", url.replace("/api/v1", ""))).json;

/* Uploads that this browser began and did not end: name, size, bytes that arrived. */
export async function unfinished() {
  const found = [];
  let keys = [];
  try { keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)); } catch { /* no storage */ }
  for (const key of keys) {
    const [, name, size] = /^(.*) (\d+) -?\d+$/.exec(key.slice(PREFIX.length)) || [], url = localStorage.getItem(key);
    const at = await state(url).catch((error) => { if (error.status === 404) localStorage.removeItem(key); });
    if (at && !at.smear && at.offset) found.push({ key, url, name, size: Number(size), offset: at.offset });
  }
  return found;
}

/* Delete what arrived of such an upload. */
export async function discard(one) {
  await call("DELETE", one.url.replace("/api/v1", ""), undefined, { "Tus-Resumable": "1.0.0" });
  localStorage.removeItem(one.key);
}
