"""The output formats of a prediction, by name."""

from collections.abc import Callable, Mapping
from functools import partial

from pipeline.inference.formats.coco import coco_files, image_ids
from pipeline.inference.formats.cvat import cvat_files
from pipeline.inference.formats.deeplabcut import deeplabcut_files
from pipeline.inference.formats.label_studio import label_studio_files
from pipeline.inference.formats.labels import Labels, Written, labels_of
from pipeline.inference.formats.sleap import sleap_files
from pipeline.inference.formats.tables import Results, csv_bytes, json_bytes, mat_bytes
from pipeline.inference.formats.yolo import yolo_files


def _one(name: str, write: Callable[[Results], bytes], results: Results) -> Written:
    return Written(files={name: write(results)})


def _labels(write: Callable[[Labels], Written], results: Results) -> Written:
    return write(labels_of(results, image_ids(results.estimates, results.boxes)))


FORMATS: Mapping[str, Callable[[Results], Written]] = {
    "json": partial(_one, "predictions.json", json_bytes),
    "csv": partial(_one, "predictions.csv", csv_bytes),
    "mat": partial(_one, "predictions.mat", mat_bytes),
    "coco": partial(_labels, coco_files),
    "yolo-pose": partial(_labels, yolo_files),
    "deeplabcut": partial(_labels, deeplabcut_files),
    "sleap": partial(_labels, sleap_files),
    "cvat": partial(_labels, cvat_files),
    "label-studio": partial(_labels, label_studio_files),
}
