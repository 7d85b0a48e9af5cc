/* The password: change. API tokens: add, copy, revoke. */
"use strict";

import { announce, byId, call, number, renew, t } from "./api.js";

const fail = (error) => { byId("fault").textContent = error.message; };

const reasons = { 403: t("The current password is wrong."), 422: t("At least 8 characters.") };

if (byId("change")) byId("change").onsubmit = async (event) => { // only where users have passwords
  event.preventDefault();
  byId("password-fault").textContent = byId("password-changed").textContent = "";
  const form = event.target, button = form.querySelector("button");
  button.disabled = true;
  try {
    await call("PUT", "/session/password", { old: byId("password-old").value, new: byId("password-new").value });
    form.reset();
    byId("password-changed").textContent = t("Password changed");
  } catch (error) {
    byId("password-fault").textContent = reasons[error.status] || error.message;
    byId(error.status === 422 ? "password-new" : "password-old").select();
  }
  button.disabled = false;
};

byId("add").onsubmit = async (event) => {
  event.preventDefault();
  byId("fault").textContent = "";
  const days = byId("token-days").value;
  try {
    const { json } = await call("POST", "/tokens", { name: byId("token-name").value, scope: byId("token-scope").value, days: days ? Number(days) : null });
    byId("made").hidden = false;
    byId("token").textContent = json.token;
    byId("copy").focus();
    await renew("token-list");
  } catch (error) { fail(error); }
};

byId("copy").onclick = async () => {
  try {
    await navigator.clipboard.writeText(byId("token").textContent);
    announce(t("Copied."));
  } catch { getSelection().selectAllChildren(byId("token")); }
};

let leaving = "";
byId("main").addEventListener("click", (event) => { // the list is made anew with each token
  const button = event.target.closest("[data-revoke]");
  if (!button) return;
  const { name, revoke } = button.dataset, n = Number(button.dataset.with);
  leaving = revoke;
  byId("revoking-title").textContent = n === 0 ? t("Revoke {name}?", { name }) : n === 1 ? t("Revoke {name} and 1 token made with it?", { name }) : t("Revoke {name} and {n} tokens made with it?", { name, n: number(n) });
  byId("revoking").showModal();
});

byId("revoke").onclick = async () => {
  byId("revoking").close();
  try {
    await call("DELETE", "/tokens/" + leaving);
    await renew("token-list");
    announce(t("Revoked."));
    byId("token-name").focus(); // the button is gone
  } catch (error) { fail(error); }
};
