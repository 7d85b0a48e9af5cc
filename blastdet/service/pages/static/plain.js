/* What the interface answers to a request, or a job that failed, in words for people who write no programs. */
"use strict";

/* Line of the interface -> sentence. The first that fits; groups of the pattern are {1}, {2}. */
const lines = (t) => [
  [/^name or password is wrong/, t("Name or password is wrong.")],
  [/try again in (\d+) s/, t("Too many tries. Wait {1} seconds, then try again.")],
  [/^user: expected the name of another user/, t("There is no user of that name.")],
  [/token of the session in the header/, t("You logged in again elsewhere in this browser. Load the page again.")],
  [/^smear: an analysis is running/, t("An analysis of this smear is running. Wait for its result, or cancel it.")],
  [/^smear: somebody corrected it/, t("Somebody corrected this smear meanwhile. Load the page again, and look at it.")],
  [/^smear: it is signed/, t("This smear is signed. Reopen it first.")],
  [/^smear: expected the right to/, t("You may look at this smear, but not change it. Ask its owner.")],
  [/^(smear|analysis|job|token|upload|tile|cell): .*(not found|gone)|the image is gone/, t("This is no longer there. Load the page again.")],
  [/^name: /, t("This name cannot be used. Use 1 to 150 letters.")],
  [/^mpp: |µm\/px to show cells/, t("This scale cannot be right. Check the number of µm/px.")],
  [/^weights: /, t("This model is not offered any more. Load the page again.")],
  [/MB more of your/, t("Your space on this service is used up. Delete smears that you no longer need.")],
  [/^upload: expected at most|megapixels|gigapixels|pixels a side/, t("The file is larger than this service takes.")],
  [/an empty file/, t("The file is empty.")],
  [/expected JPEG, PNG/, t("This file cannot be read as an image. Choose JPEG, PNG, TIFF, BMP, WebP or HEIC.")],
  [/could not determine the scale/, t("The scale could not be measured on red cells. Analyze again with a given scale in µm/px.")],
  [/memory|no progress for|log says which/, t("The image could not be analyzed: it is damaged, or too large for this service.")],
  [/damaged|truncated|cannot be (read|decoded)|broke off|samples|photometric|HEIC|in the header|one pixel/, t("The image is damaged, or of a kind that cannot be read. Save it again as PNG or TIFF.")],
];

const statuses = (t) => ({
  401: t("You are not logged in any more. Load the page again."),
  403: t("You are not allowed to do this. Ask your administrator."),
  404: t("This is no longer there. Load the page again."),
  409: t("Somebody else changed this at the same time. Load the page again."),
  413: t("The file is larger than this service takes."),
  429: t("Too many requests at once. Try again in a few seconds."),
  503: t("The service is busy. Try again in a few seconds."),
  507: t("The disk of the service is full. Ask your administrator."),
});

/* A sentence for a status and its line; what is not known here is shown as it is, after words that say so. */
export function plain(t, status, line) {
  for (const [pattern, sentence] of lines(t)) {
    const found = pattern.exec(line);
    if (found) return sentence.replace(/\{(\d)\}/g, (_, k) => found[k]);
  }
  if (statuses(t)[status]) return statuses(t)[status];
  return (status >= 500 ? t("The service failed. Tell your administrator:") : t("That did not work:")) + " " + line;
}
