"""Boxes that SAHI detects on images downsampled to the µm/px of the model, as COCO results in full pixels, on stdout.

    python sahi_boxes.py MODEL.pt IMAGES.json

IMAGES.json: a list of {"image_id", "path", "scale"}.
"""

import json
import sys
from pathlib import Path

import cv2
from sahi import AutoDetectionModel
from sahi.predict import get_sliced_prediction

model = AutoDetectionModel.from_pretrained(
    model_type="ultralytics", model_path=sys.argv[1], confidence_threshold=0.01, device="cpu"
)
rows = []
for image in json.loads(Path(sys.argv[2]).read_text()):
    rgb = cv2.cvtColor(cv2.imread(image["path"]), cv2.COLOR_BGR2RGB)
    scale = image["scale"]
    rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    found = get_sliced_prediction(
        rgb, model, slice_height=512, slice_width=512, overlap_height_ratio=0.2, overlap_width_ratio=0.2, verbose=0
    )
    for cell in found.object_prediction_list:
        x1, y1, x2, y2 = (side / scale for side in cell.bbox.to_xyxy())
        row = {"image_id": image["image_id"], "category_id": cell.category.id + 1, "score": float(cell.score.value)}
        rows.append({**row, "bbox": [float(side) for side in (x1, y1, x2 - x1, y2 - y1)]})
print(json.dumps(rows))
