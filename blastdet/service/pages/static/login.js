/* Log in with name and password. */
"use strict";

import { byId, call, page } from "./api.js";

byId("login").onsubmit = async (event) => {
  event.preventDefault();
  byId("fault").textContent = "";
  const button = event.target.querySelector("button");
  button.disabled = true;
  try {
    await call("POST", "/session", { name: byId("name").value, password: byId("password").value });
    location.href = page.next;
  } catch (error) {
    byId("fault").textContent = error.message;
    button.disabled = false;
    byId("password").select();
  }
};
