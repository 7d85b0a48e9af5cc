/* Corrections in the storage of the browser: of these images, this model, this page. */
"use strict";

export function keepInBrowser(cells, { byId, tell }) {
  const { DATA, corrections, t } = cells, name = ["blastdet-review", DATA.mode, DATA.id, DATA.model_sha256].join(" ");
  const who = byId("who");

  cells.who = () => who.value.trim();
  cells.keep = () => {
    let said = corrections.size ? t("Kept in this browser only: export to save.") : "";
    try { localStorage.setItem(name, JSON.stringify(cells.kept())); } catch { said = t("Too many for this browser to keep: export now."); }
    tell(said);
  };

  who.onchange = () => { try { localStorage.setItem(name + " who", who.value); } catch { /* no storage */ } };
  let list = [];
  try {
    who.value = localStorage.getItem(name + " who") || "";
    list = JSON.parse(localStorage.getItem(name) || "[]");
  } catch { /* no storage, or of another program */ }
  if (Array.isArray(list)) cells.restore(list);
  cells.keep();
}
