/* Sentences that come with the data, in the language of the page. */
"use strict";

const BETWEEN = [". ", "; ", ": ", ", "]; // what parts of a sentence are put together with, the strongest first
const quote = (name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/* `texts`: translations, in which a number or the name of a model is {1}, {2} ... `figures` writes numbers. The function
   returned gives null where a part of a sentence is unknown: half of one in another language is worse than none. */
export function sayerOf(texts, models, figures) {
  const name = models.length ? "(?<=\\b(?:detector|classifier|Models:|and) )(?:" + models.map(quote).join("|") + ")(?![\\w-])|" : "";
  const value = new RegExp(name + "\\d{1,3}(?:,\\d{3})+(?:\\.\\d+)?|\\d+(?:\\.\\d+)?", "g");

  function said(text, between = BETWEEN) {
    const values = [], known = texts[text.replace(value, (one) => "{" + values.push(one) + "}")];
    if (known) return known.replace(/\{(\d+)\}/g, (_, k) => (models.includes(values[k - 1]) ? values[k - 1] : figures(values[k - 1])));
    const at = between.findIndex((sign) => text.includes(sign));
    if (at < 0) return null;
    const parts = text.split(between[at]).map((part) => said(part, between.slice(at + 1)));
    return parts.includes(null) ? null : parts.join(texts[between[at]] || between[at]);
  }

  return (text) => {
    const end = text.endsWith(".") ? "." : "", found = said(text.slice(0, text.length - end.length));
    return found === null ? null : found + end;
  };
}
