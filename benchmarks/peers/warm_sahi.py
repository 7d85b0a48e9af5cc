"""SAHI as a user runs it: 512-pixel slices, overlap 0.2, an ultralytics model. Prints milliseconds and boxes as JSON.

    python warm_sahi.py MODEL.pt IMAGE ROUNDS [SCALE]

With SCALE, the image is downsampled first, to the pixels that blastdet uses. The time includes that.
"""

import json
import sys
import time

import cv2
from sahi import AutoDetectionModel
from sahi.predict import get_sliced_prediction

path, sample, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
scale = float(sys.argv[4]) if len(sys.argv) > 4 else 1.0
model = AutoDetectionModel.from_pretrained(
    model_type="ultralytics", model_path=path, confidence_threshold=0.25, device="cpu"
)
times = []
for _ in range(rounds):
    start = time.perf_counter()
    image = sample
    if scale != 1.0:
        rgb = cv2.cvtColor(cv2.imread(sample), cv2.COLOR_BGR2RGB)
        image = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = get_sliced_prediction(
        image, model, slice_height=512, slice_width=512, overlap_height_ratio=0.2, overlap_width_ratio=0.2, verbose=0
    )
    times.append(1000 * (time.perf_counter() - start))
print(json.dumps({"ms": times, "cells": len(found.object_prediction_list)}))
