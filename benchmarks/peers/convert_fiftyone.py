"""Pascal VOC to YOLO with FiftyOne: python convert_fiftyone.py IMAGES ANNOTATIONS OUT."""

import sys

import fiftyone as fo

images, annotations, out = sys.argv[1:4]
data = fo.Dataset.from_dir(dataset_type=fo.types.VOCDetectionDataset, data_path=images, labels_path=annotations)
classes = data.distinct("ground_truth.detections.label")
data.export(out, dataset_type=fo.types.YOLOv5Dataset, label_field="ground_truth", classes=classes)
print(len(data))
