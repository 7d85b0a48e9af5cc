/* Light or dark, before anything is drawn. */
"use strict";

try {
  const kept = localStorage.getItem("blastdet theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch { /* no storage: the colours of the system */ }
