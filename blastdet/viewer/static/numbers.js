/* Numbers as the language of the page writes them. */
"use strict";

export function numbersOf(language = "en") {
  // rounded as reports round, by the binary value: `Intl` makes 0.60 of 0.595, which is a little less
  const decimal = (value, digits) => Number(value.toFixed(digits)).toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const sign = language === "en" ? " %" : (0).toLocaleString(language, { style: "percent" }).slice(1); // with its space; English reports have one, too
  return {
    decimal,
    count: (n) => n.toLocaleString(language),
    significant: (value, digits = 4) => value.toLocaleString(language, { maximumSignificantDigits: digits }),
    percent: (part) => Math.floor(100 * part + 1e-6).toLocaleString(language) + sign, // 100 × 0.29 is a little less than 29
    /* A probability in little room: English leaves its zero out. */
    short: (value) => decimal(value, 2).replace(/^0\./, "."),
    /* Figures that come as text. They are not rounded again: the page says what the report says. */
    figures: (text) => text.replace(/\d+\.\d+/g, (one) => decimal(Number(one), one.length - one.indexOf(".") - 1)).replaceAll(" %", sign),
  };
}
