/* What every page has: colours, language, log-out, times in the zone of the browser, dialogs and menus. */
"use strict";

import { byId, call, local } from "./api.js";

const theme = byId("theme");
theme.value = document.documentElement.dataset.theme || "";
theme.onchange = () => {
  if (theme.value) document.documentElement.dataset.theme = theme.value;
  else delete document.documentElement.dataset.theme;
  try { localStorage.setItem("blastdet theme", theme.value); } catch { /* for this page only */ }
};

const language = byId("language");
language.onchange = () => { location.href = "/language/" + language.value + "?back=" + encodeURIComponent(location.pathname + location.search); };

const logout = byId("logout");
if (logout) logout.onclick = async () => {
  await call("DELETE", "/session").catch(() => {});
  location.href = "/login";
};

local(document);
document.documentElement.classList.add("local"); // until then no time is shown

for (const button of document.querySelectorAll("[data-dialog]")) button.addEventListener("click", () => byId(button.dataset.dialog).showModal());
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());

/* A menu closes when one leaves it. */
for (const menu of document.querySelectorAll("details.menu")) {
  menu.addEventListener("keydown", (event) => { if (event.key === "Escape" && menu.open) { menu.open = false; menu.querySelector("summary").focus(); event.stopPropagation(); } });
  document.addEventListener("pointerdown", (event) => { if (!menu.contains(event.target)) menu.open = false; });
}
