"""Damaged files of labelling tools: each is packed, or refused in one sentence."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tool_files import FILES

from pipeline.data.formats.registry import read_annotations, recognise
from pipeline.data.packing_plan import plan_packing
from pipeline.pose.joint_set import JointSet
from pipeline.pose.person import Person
from pipeline.settings.packing import AnnotationFiles, PackSettings

_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_WORD = re.compile(rb"[A-Za-z_]{2,}")
_VALUES = (
    *(b"", b"-1", b"0", b"nan", b"null", b"1e999", b"99999999999999999999"),
    *(b'"x"', b"[]", b"{}"),
)
# A second file that a format reads beside the first.
_BESIDE = {"yolo-pose": "labels/train/a.txt", "label-studio": "config.xml"}
# Files beside the repository.
_GENUINE = (
    "coco_other_joints/aic/test_aic.json",
    "coco_other_joints/ap10k/test_ap10k.json",
    "coco_other_joints/crowdpose/test_crowdpose.json",
    "coco_other_joints/horse10/test_horse10.json",
    "coco_other_joints/macaque/test_macaque.json",
    "cvat/for_images/train.xml",
    "cvat/for_video/annotations.xml",
    "dlc_openfield/labeled-data/m4s1/CollectedData_Pranav.csv",
    "dlc_openfield/labeled-data/m4s1/CollectedData_Pranav.h5",
    "dlc_variants/labeled-data/video/madlc_testdata_v2.csv",
    "dlc_variants/labeled-data/video/maudlc_testdata.csv",
    "label_studio/data_keypoints.json",
    "lightning_pose_mouse/CollectedData.csv",
    "sleap/dance.mp4.labels.slp",
    "sleap/minimal_instance.slp",
    "yolo_pose/data.yaml",
    "yolo_pose_xy/data.yaml",
)


def truncated(data: bytes, place: float, _: int) -> bytes:
    return data[: int(place * len(data))]


def flipped(data: bytes, place: float, number: int) -> bytes:
    at = int(place * (len(data) - 1))
    return data[:at] + bytes([data[at] ^ (1 + number % 255)]) + data[at + 1 :]


def cut(data: bytes, place: float, number: int) -> bytes:
    at = int(place * len(data))
    return data[:at] + data[at + 1 + number % 40 :]


def doubled(data: bytes, place: float, number: int) -> bytes:
    at = int(place * len(data))
    return data[: at + number % 60] + data[at:]


def other_number(data: bytes, place: float, number: int) -> bytes:
    return _replaced(data, _NUMBER, place, _VALUES[number % len(_VALUES)])


def other_word(data: bytes, place: float, number: int) -> bytes:
    return _replaced(data, _WORD, place, (b"x", b"", b"id", b"\xff", b"../..")[number % 5])


def without_a_line(data: bytes, place: float, _: int) -> bytes:
    lines = data.splitlines(keepends=True)
    at = int(place * (len(lines) - 1))
    return b"".join(lines[:at] + lines[at + 1 :])


def _replaced(data: bytes, pattern: re.Pattern[bytes], place: float, new: bytes) -> bytes:
    found = list(pattern.finditer(data))
    if not found:
        return data
    match = found[int(place * (len(found) - 1))]
    return data[: match.start()] + new + data[match.end() :]


mutations = st.tuples(
    st.sampled_from((truncated, flipped, cut, doubled, other_number, other_word, without_a_line)),
    st.floats(0, 1),
    st.integers(0, 9999),
)


Read = Callable[[Path], tuple[JointSet, Sequence[Person]]]


def planned(images: Path, out: Path) -> Read:
    """Return a function that plans the pack of a file."""

    def read(path: Path) -> tuple[JointSet, Sequence[Person]]:
        settings = PackSettings(
            source=str(path), images=images, out=out, split="train", max_left_out=1.0
        )
        plan = plan_packing(settings)
        return plan.joint_set, [person for job in plan.jobs for person in job.people]

    return read


def read_alone(path: Path) -> tuple[JointSet, Sequence[Person]]:
    """Read a file without its pictures, which takes a tenth of the time."""
    source, annotations, _ = recognise(path)
    found = read_annotations(source, AnnotationFiles(annotations=annotations))
    return found.joint_set, found.people


def check(path: Path, mutated: Path, read: Read, source: Path | None = None) -> None:
    """Hold that 200 mutations of a file are each packed, or refused in one sentence.

    `source` is the file to read where `mutated` is another that it reads beside.
    """
    whole = path.read_bytes()

    @seed(20)
    @settings(
        max_examples=200,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutation=mutations)
    def is_packed_or_refused(mutation: tuple[Callable[..., bytes], float, int]) -> None:
        change, place, number = mutation
        mutated.write_bytes(change(whole, place, number))
        try:
            joint_set, people = read(mutated if source is None else source)
        except ValueError as found:
            message = str(found)
        else:
            message = "packed"
            assert all(len(person.joints) == len(joint_set.joints) for person in people)
            assert np.isfinite([person.joints for person in people]).all()
        assert 0 < len(message) < 2000

    is_packed_or_refused()


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_packed_or_refused_in_one_sentence(tmp_path, name):
    path = FILES[name](tmp_path / "in")
    images = tmp_path / ("in/images" if name == "cvat" else "in")
    check(path, path, planned(images, tmp_path / "out"))


@pytest.mark.parametrize("name", _BESIDE)
def test_a_damaged_file_beside_is_packed_or_refused_in_one_sentence(tmp_path, name):
    path = FILES[name](tmp_path / "in")
    beside = tmp_path / "in" / _BESIDE[name]
    check(beside, beside, read_alone, path)


@pytest.mark.parametrize("name", _GENUINE)
def test_a_damaged_genuine_file_is_packed_or_refused_in_one_sentence(tmp_path, tools_dir, name):
    whole = tools_dir / name
    folder = tmp_path / "in"
    folder.mkdir()
    if name.startswith("yolo"):
        for path in whole.parent.rglob("*.*"):
            copied = folder / path.relative_to(whole.parent)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes())
    check(whole, folder / whole.name, read_alone)
