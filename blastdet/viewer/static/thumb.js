/* The crop of a cell. */
"use strict";

const address = (file) => 'url("' + encodeURI(file).replaceAll("#", "%23").replaceAll("?", "%3F") + '")';

/* From the sheet of its image, or from a file of its own where the image has such (`crops`); else an empty square. */
export function thumbOf(cells, i, row) {
  const { DATA, images } = cells, image = images[i], pic = document.createElement("span");
  pic.className = "pic";
  if (image.thumb && row in image.thumb) {
    const { columns } = DATA.crop, n = image.sheet_rows, at = image.thumb[row], c = at % columns, r = Math.floor(at / columns);
    pic.style.backgroundImage = address(image.sheet);
    pic.style.backgroundSize = columns * 100 + "% " + n * 100 + "%";
    pic.style.backgroundPosition = (columns > 1 ? (c / (columns - 1)) * 100 : 0) + "% " + (n > 1 ? (r / (n - 1)) * 100 : 0) + "%";
    if (DATA.outlines) outlines(cells, pic, image, row);
  } else if (image.crops && row < image.base) {
    pic.style.backgroundImage = address(image.crops + "/" + (row + 1) + ".jpg");
    pic.style.backgroundSize = "cover";
  } else pic.classList.add("none");
  return pic;
}

function outlines({ DATA, KINDS, baseBox }, pic, image, row) {
  const [x1, y1, x2, y2] = baseBox(image, row), mpp = image.mpp || [1, 1];
  const um = image.mpp ? DATA.crop.um : Math.max(x2 - x1, y2 - y1) * DATA.crop.times;
  const frame = (box, kind, pair) => {
    const made = document.createElement("i");
    if (pair) made.className = "pair";
    const place = (value, middle, scale) => 50 + ((value - middle) * scale / um) * 100 + "%";
    const cx = (x1 + x2) / 2, cy = (y1 + y2) / 2;
    made.style.left = place(box[0], cx, mpp[0]); made.style.top = place(box[1], cy, mpp[1]);
    made.style.width = ((box[2] - box[0]) * mpp[0] / um) * 100 + "%"; made.style.height = ((box[3] - box[1]) * mpp[1] / um) * 100 + "%";
    made.style.borderColor = KINDS[kind].colour;
    pic.append(made);
  };
  frame([x1, y1, x2, y2], image.was[row], image.dashed && image.dashed.includes(row));
  if (image.pair && image.pair[row]) frame(image.pair[row], image.pair[row][4], true);
}
