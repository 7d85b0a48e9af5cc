"""The usual loop for a slide: tifffile reads tile by tile, ultralytics predicts on each. Prints the number of boxes.

    python loop_tiff.py MODEL.pt SLIDE.tif SCALE

SCALE reduces each piece of 2048 pixels to the model's µm/px, without overlap and without merging at the seams.
"""

import sys

import cv2
import tifffile
import zarr
from ultralytics import YOLO

path, slide, scale = sys.argv[1], sys.argv[2], float(sys.argv[3])
model, n, step = YOLO(path), 0, 2048
with tifffile.TiffFile(slide) as file:
    pixels = zarr.open(file.pages[0].aszarr(), mode="r")
    for y in range(0, pixels.shape[0], step):
        for x in range(0, pixels.shape[1], step):
            piece = cv2.resize(
                pixels[y : y + step, x : x + step], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
            )
            bgr = cv2.cvtColor(piece, cv2.COLOR_RGB2BGR)
            n += len(model.predict(bgr, imgsz=max(bgr.shape[:2]), max_det=3000, verbose=False)[0].boxes)
print(n)
