/* Corrections on their way to the service: appended under a version, so that two people do not overwrite each other. */
"use strict";

import { allCorrections, announce, byId, call, make, number, page, t } from "./api.js";

const GATHER_MS = 250; // corrections made in quick succession go together
const SLOWEST_S = 20;

/* `analysis`: id. `data`: as /view gives it. `saved` is called with all rows once everything is stored. */
export function keepOnServer(analysis, data, saved) {
  const where = "/analyses/" + analysis + "/corrections", stored = data.corrections.slice();
  let version = data.version, pending = [], sent = 0, timer = 0, busy = false, wait = 0, stopped = false;

  function keeper(cells, { tell }) {
    cells.restore(cells.fromRows(data.corrections));
    data.corrected = cells.corrections.size > 0; // what was undone is not
    cells.keep = (step) => {
      if (!step) return;
      pending.push(...cells.rowsOf(step));
      if (stopped) return;
      tell(t("Saving …"));
      clearTimeout(timer);
      timer = setTimeout(flush, GATHER_MS);
    };

    async function flush() {
      if (busy || stopped || !pending.length) return;
      busy = true;
      const some = pending.slice(0, sent || undefined); // the same again: the service may have them, and its answer was lost
      sent = some.length;
      try {
        const { json } = await call("POST", where, { corrections: some }, { "if-match": '"' + version + '"' });
        pending.splice(0, some.length);
        sent = 0;
        version = json.version;
        stored.push(...json.corrections);
        wait = 0;
        if (!pending.length) { tell(t("Saved.")); saved(stored); }
      } catch (error) { failed(error); }
      busy = false;
      if (pending.length && !stopped) timer = setTimeout(flush, 1000 * wait);
    }

    function failed(error) {
      if (error.status === 412) { stopped = true; conflict().catch(lost); return; }
      if ([0, 429, 502, 503, 504, 507].includes(error.status)) {
        wait = Math.min(Math.max(2 * wait, 1), SLOWEST_S);
        tell(t("Not saved yet: {why} Trying again.", { why: error.message }));
        return;
      }
      lost(error);
    }

    function lost(error) {
      stopped = true;
      offerToLoad(t("Your last corrections were not saved. Load the page again. {why}", { why: error.message }));
      tell(t("Not saved."));
    }

    /* A fault, and a button that loads the page again, without what was not saved. */
    function offerToLoad(text) {
      const load = make("button", t("Load the page again"));
      load.type = "button";
      load.onclick = byId("drop-mine").onclick;
      byId("fault-of-page").replaceChildren(text + " ", load);
    }

    async function conflict() {
      const rows = (await allCorrections(where)).slice(stored.length), key = (row) => (row.box_xyxy || [row.op, row.old_class]).join(" ");
      const names = [...new Set(rows.map((row) => row.who))].join(", "), mine = new Set(pending.map(key));
      const both = new Set(rows.map(key).filter((one) => mine.has(one))).size;
      const own = rows.length > 0 && rows.every((row) => row.who === page.user);
      tell(own ? t("Not saved: another window was first.") : t("Not saved: somebody else was first."));
      byId("conflict-title").textContent = own ? t("This smear was corrected in another window ({who})", { who: names }) : t("Somebody else corrected this smear");
      byId("keep-mine").textContent = own ? t("Take those, then the ones of this window on top") : t("Take theirs, then mine on top");
      byId("drop-mine").textContent = own ? t("Take those, drop the ones of this window") : t("Take theirs, drop mine");
      byId("conflict-text").textContent = own ? t("Corrections there: {n}. In this window, not saved: {mine}. Cells changed in both: {both}.", { n: number(rows.length), mine: number(mine.size), both: number(both) }) : t("Corrections by {who}: {n}. Yours, not saved: {mine}. Cells that both of you changed: {both}.", { who: names, n: number(rows.length), mine: number(mine.size), both: number(both) });
      byId("conflict").hidden = false;
      byId("keep-mine").focus();
      announce(byId("conflict-title").textContent);
    }

    byId("keep-mine").onclick = async () => {
      try {
        const now = (await call("GET", where)).json;
        await call("POST", where, { corrections: pending }, { "if-match": '"' + now.version + '"' });
        pending = [];
        location.reload();
      } catch (error) {
        if (error.status === 412) conflict().catch(lost);
        else if (error.status === 409) offerToLoad(error.message); // signed meanwhile: this page is out of date
        else byId("fault-of-page").textContent = error.message;
      }
    };
    byId("drop-mine").onclick = () => { pending = []; location.reload(); };
    addEventListener("beforeunload", (event) => { if (pending.length) event.preventDefault(); });
  }
  keeper.version = () => (pending.length ? null : version); // null: not everything is stored
  keeper.why = () => (!stopped ? t("Your corrections are being saved. Try again in a moment.") : byId("conflict").hidden ? t("Your last corrections were not saved. Load the page again.") : t("Choose above first: your corrections are not saved yet."));
  return keeper;
}
