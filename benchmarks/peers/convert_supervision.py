"""Pascal VOC to YOLO with supervision: python convert_supervision.py IMAGES ANNOTATIONS OUT."""

import sys

import supervision

images, annotations, out = sys.argv[1:4]
data = supervision.DetectionDataset.from_pascal_voc(images, annotations)
data.as_yolo(f"{out}/images", f"{out}/labels", f"{out}/data.yaml")
print(len(data))
