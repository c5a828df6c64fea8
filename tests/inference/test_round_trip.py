"""Labels that are written for a tool, and packed again from its file."""

import cv2
import numpy as np
import pytest
from factories import BIRD

from pipeline.data.formats.registry import read_annotations, recognise
from pipeline.inference.formats.coco import coco_files
from pipeline.inference.formats.cvat import cvat_files
from pipeline.inference.formats.deeplabcut import deeplabcut_files
from pipeline.inference.formats.label_studio import label_studio_files
from pipeline.inference.formats.labels import LabelledPerson, Labels, Picture
from pipeline.inference.formats.sleap import sleap_files
from pipeline.inference.formats.yolo import yolo_files
from pipeline.settings.packing import AnnotationFiles

# The right wing is missing.
PERSON = LabelledPerson(
    joints=np.array([[20.25, 10.5], [60.125, 50.0], [0.0, 0.0]]),
    states=np.array([2, 2, 0]),
    confidence=np.array([0.9, 0.5, 0.1]),
    score=0.5,
)


@pytest.mark.parametrize(
    ("write", "file"),
    [
        (coco_files, "coco_annotations.json"),
        (yolo_files, "yolo/data.yaml"),
        (deeplabcut_files, None),
        (sleap_files, None),
        (cvat_files, None),
        (label_studio_files, None),
    ],
)
def test_what_is_written_for_a_tool_is_read_again(tmp_path, write, file):
    root = tmp_path / "birds"
    root.mkdir()
    cv2.imwrite(str(root / "a.jpg"), np.zeros((100, 200, 3), np.uint8))
    picture = Picture(name="a.jpg", width=200, height=100, people=(PERSON,))
    written = write(
        Labels(joint_set=BIRD, root=root, pictures=(picture,), image_ids={picture.place: 7})
    )
    for name, content in written.files.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if write is yolo_files:
        (tmp_path / "out/yolo/images").mkdir(exist_ok=True)
        (tmp_path / "out/yolo/images/a.jpg").write_bytes((root / "a.jpg").read_bytes())
    path = tmp_path / "out" / (file or next(iter(written.files)))
    source, path, _ = recognise(path)
    found = read_annotations(source, AnnotationFiles(annotations=path, predictions=True))
    [person] = found.people
    assert found.joint_set.joints == BIRD.joints
    assert person.visibility == (2, 2, 0)
    np.testing.assert_allclose(person.joints[:2], PERSON.joints[:2], atol=0.01)
