"""The annotation formats that can be packed, by name."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from pipeline.data.formats.annotations import Annotations, because
from pipeline.data.formats.coco import is_coco, read_coco
from pipeline.data.formats.lsp import read_lsp, read_lspet
from pipeline.data.formats.mpii import read_mpii_hrnet, read_mpii_json
from pipeline.data.formats.mpii_mat import read_mpii_mat
from pipeline.data.formats.plausible import Advice, check_plausible
from pipeline.data.formats.pose_h5 import read_flic, read_mpii_h5
from pipeline.data.formats.recognition import Peek, Recognise, recognised
from pipeline.data.formats.table import read_table
from pipeline.data.formats.tools.cvat import is_cvat, read_cvat
from pipeline.data.formats.tools.deeplabcut import is_deeplabcut, read_deeplabcut
from pipeline.data.formats.tools.label_studio import is_label_studio, read_label_studio
from pipeline.data.formats.tools.sleap import is_sleap, read_sleap
from pipeline.data.formats.tools.yolo import is_yolo_pose, read_yolo_pose
from pipeline.data.photographs.frames import sizes_of_pictures
from pipeline.data.photographs.orientation import Held
from pipeline.pose.joint_file import read_joint_file
from pipeline.settings.packing import AnnotationFiles

# Options of a source beside its annotations.
Option = Literal["head_boxes", "joint_set", "category", "predictions"]
# Of sources that describe their own joints.
_OWN_JOINTS: tuple[Option, ...] = ("joint_set", "category", "predictions")

_OWN_ADVICE = Advice(
    missing="expected no point where a joint is not annotated, or missing = {value} in a "
    "--joint-set file",
    unit="expected pixels (a --joint-set file with unit = 'pixels' if these are)",
)


@dataclass(frozen=True, kw_only=True)
class AnnotationFormat:
    """An annotation format and its conventions.

    `recognise` returns the reason to take a file or folder for one of this format, or nothing.
    `takes` are the options that `read` heeds. `index_base` is the number of the first pixel in the
    file (people always come out 0-based), None where the files state it themselves.
    `center_adjusted` says whether the file's centre and scale already carry the authors'
    adjustment. `held` says how its joints see photographs with an EXIF orientation, where no size
    in it tells. `advice` ends errors on coordinates that are no pixels.
    """

    read: Callable[[AnnotationFiles], Annotations]
    recognise: Recognise
    index_base: int | None = 0
    center_adjusted: bool = False
    takes: tuple[Option, ...] = ()
    held: Held = "stored"
    advice: Advice = field(default_factory=Advice)

    @property
    def describes_joints(self) -> bool:
        """Whether the files name their own joints."""
        return self.takes == _OWN_JOINTS


def _is_list_of(*fields: str) -> Recognise:
    """Recognise a JSON list of objects with these fields."""

    def recognise(peek: Peek) -> str:
        has_all = set(fields) <= set(peek.record)
        return f"it is a list of objects with {' and '.join(fields)}" if has_all else ""

    return recognise


def _is_h5_of(joints: int) -> Recognise:
    """Recognise pose-hg-train's HDF5 file with this number of joints."""

    def recognise(peek: Peek) -> str:
        is_one = peek.h5.get("part", ())[1:] == (joints, 2)
        return f"it has a part of {joints} joints a person, as pose-hg-train's" if is_one else ""

    return recognise


def _is_mat_of(*axes: int) -> Recognise:
    """Recognise a MATLAB file whose joints have these first axes."""

    def recognise(peek: Peek) -> str:
        shape = getattr(peek.mat.get("joints"), "shape", ())
        return f"its joints have the shape {shape}" if len(shape) == 3 and shape[:2] == axes else ""

    return recognise


def _is_mpii_mat(peek: Peek) -> str:
    return "it has MPII's struct RELEASE" if "RELEASE" in peek.mat else ""


def _is_table(peek: Peek) -> str:
    if peek.start.startswith(b"PAR1"):
        return "it is a Parquet table"
    return "its first row names the column image" if "image" in peek.cells else ""


def _alone(read: Callable[[Path], Annotations]) -> Callable[[AnnotationFiles], Annotations]:
    """Return a reader of the annotation file alone."""
    return lambda files: read(files.annotations)


def _read_table(files: AnnotationFiles) -> Annotations:
    assert files.joint_set is not None, "the settings demand it"
    sizes = partial(sizes_of_pictures, files) if files.images else None
    return read_table(files.annotations, read_joint_file(files.joint_set), sizes)


# A format that labelling tools write: files name their joints, and tools show pictures upright.
_tool = partial(AnnotationFormat, takes=_OWN_JOINTS, held="upright")

SOURCES = {
    "mpii-json": AnnotationFormat(
        read=lambda files: read_mpii_json(files.annotations, files.head_boxes),
        recognise=_is_list_of("joint_self", "img_paths"),
        index_base=1,
        takes=("head_boxes",),
    ),
    "mpii-hrnet": AnnotationFormat(
        read=lambda files: read_mpii_hrnet(files.annotations, files.head_boxes),
        recognise=_is_list_of("joints", "joints_vis", "image"),
        index_base=1,
        takes=("head_boxes",),
    ),
    "mpii-mat": AnnotationFormat(read=_alone(read_mpii_mat), recognise=_is_mpii_mat, index_base=1),
    "mpii-h5": AnnotationFormat(
        read=_alone(read_mpii_h5), recognise=_is_h5_of(16), index_base=1, center_adjusted=True
    ),
    "lsp": AnnotationFormat(read=_alone(read_lsp), recognise=_is_mat_of(3, 14)),
    "lspet": AnnotationFormat(read=_alone(read_lspet), recognise=_is_mat_of(14, 3)),
    "coco": _tool(
        read=read_coco,
        recognise=is_coco,
        advice=Advice(
            missing="expected the visibility 0 where a joint is not annotated",
            unit=f"{Advice.unit} (a --joint-set file with unit = 'pixels' if these are pixels)",
        ),
    ),
    "yolo-pose": _tool(read=read_yolo_pose, recognise=is_yolo_pose),
    "deeplabcut": _tool(read=read_deeplabcut, recognise=is_deeplabcut, advice=_OWN_ADVICE),
    "sleap": _tool(read=read_sleap, recognise=is_sleap, advice=_OWN_ADVICE),
    "cvat": _tool(read=read_cvat, recognise=is_cvat, advice=_OWN_ADVICE),
    "label-studio": _tool(read=read_label_studio, recognise=is_label_studio),
    "flic": AnnotationFormat(
        read=_alone(read_flic), recognise=_is_h5_of(11), index_base=1, center_adjusted=True
    ),
    "table": AnnotationFormat(
        read=_read_table,
        recognise=_is_table,
        index_base=None,
        takes=("joint_set",),
        held="upright",
        advice=Advice(
            missing="expected empty cells where a joint is not annotated, or missing = {value} in "
            "the joint-set file",
            unit="expected pixels, or unit = '{unit}' in the joint-set file (unit = 'pixels' if "
            "these are pixels)",
        ),
    ),
}


def recognise(path: Path) -> tuple[str, Path, str]:
    """Return the format of a file or folder by its content, the file, and the reason.

    Raises ValueError if it is of no format, or holds files of several.
    """
    return recognised(path, {name: found.recognise for name, found in SOURCES.items()})


def read_annotations(source: str, files: AnnotationFiles) -> Annotations:
    """Read `files` in the format `source`. Raises ValueError naming file, field and value."""
    found = SOURCES[source]
    for option in get_args(Option):
        value = getattr(files, option)
        if value and option not in found.takes:
            raise ValueError(f"--{option.replace('_', '-')} {value}: {source} takes none")
    annotations = found.read(files)
    if not annotations.people:
        raise ValueError(f"{files.annotations}: no people{because(annotations.skipped)}")
    base = (annotations.index_base if found.index_base is None else found.index_base) or 0
    doubts = check_plausible(annotations, str(files.annotations), base, found.advice)
    return replace(annotations, notes=(*annotations.notes, *doubts))
