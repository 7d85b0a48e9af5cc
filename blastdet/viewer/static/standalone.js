/* The page as one file, with DATA in it. */
"use strict";

import { keepInBrowser } from "./keep.js";
import { startPage } from "./page.js";

const byId = (id) => document.getElementById(id);
Object.assign(window, startPage(DATA, { byId, keeper: keepInBrowser })); // for the console
