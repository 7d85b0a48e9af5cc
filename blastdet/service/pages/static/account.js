/* API tokens: add, copy, revoke. */
"use strict";

import { announce, byId, call, t } from "./api.js";

const fail = (error) => { byId("fault").textContent = error.message; };

byId("add").onsubmit = async (event) => {
  event.preventDefault();
  byId("fault").textContent = "";
  const days = byId("token-days").value;
  try {
    const { json } = await call("POST", "/tokens", { name: byId("token-name").value, scope: byId("token-scope").value, days: days ? Number(days) : null });
    byId("made").hidden = false;
    if (byId("none")) byId("none").remove();
    byId("token").textContent = json.token;
    byId("copy").focus();
  } catch (error) { fail(error); }
};

byId("copy").onclick = async () => {
  try {
    await navigator.clipboard.writeText(byId("token").textContent);
    announce(t("Copied."));
  } catch { getSelection().selectAllChildren(byId("token")); }
};

for (const button of document.querySelectorAll("[data-revoke]")) button.onclick = async () => {
  try {
    await call("DELETE", "/tokens/" + button.dataset.revoke);
    button.closest("tr").remove();
    announce(t("Revoked."));
  } catch (error) { fail(error); }
};
