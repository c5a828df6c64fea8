"""The annotation formats that can be packed, by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pipeline.data.formats.annotations import Annotations
from pipeline.data.formats.coco import read_coco
from pipeline.data.formats.lsp import read_lsp, read_lspet
from pipeline.data.formats.mpii import read_mpii_hrnet, read_mpii_json
from pipeline.data.formats.mpii_mat import read_mpii_mat
from pipeline.data.formats.plausible import Advice, check_plausible
from pipeline.data.formats.pose_h5 import read_flic, read_mpii_h5
from pipeline.data.formats.table import read_table
from pipeline.data.photographs.orientation import Held
from pipeline.pose.joint_file import read_joint_file
from pipeline.settings.packing import AnnotationFiles

# Options of a source beside its annotations.
Option = Literal["head_boxes", "joint_set", "category", "predictions"]
# Of sources that describe their own joints.
_OWN_JOINTS: tuple[Option, ...] = ("joint_set", "category", "predictions")


@dataclass(frozen=True, kw_only=True)
class AnnotationFormat:
    """An annotation format and its conventions.

    `takes` are the options that `read` heeds. `index_base` is the number of the first pixel in the
    file (people always come out 0-based), None where the files state it themselves.
    `center_adjusted` says whether the file's centre and scale already carry the authors'
    adjustment. `held` says how its joints see photographs with an EXIF orientation, where no size
    in it tells. `advice` ends errors on coordinates that are no pixels.
    """

    read: Callable[[AnnotationFiles], Annotations]
    index_base: int | None = 0
    center_adjusted: bool = False
    takes: tuple[Option, ...] = ()
    held: Held = "stored"
    advice: Advice = field(default_factory=Advice)


def _alone(read: Callable[[Path], Annotations]) -> Callable[[AnnotationFiles], Annotations]:
    """Return a reader of the annotation file alone."""
    return lambda files: read(files.annotations)


def _read_table(files: AnnotationFiles) -> Annotations:
    assert files.joint_set is not None, "the settings demand it"
    return read_table(files.annotations, read_joint_file(files.joint_set))


SOURCES = {
    "mpii-json": AnnotationFormat(
        read=lambda files: read_mpii_json(files.annotations, files.head_boxes),
        index_base=1,
        takes=("head_boxes",),
    ),
    "mpii-hrnet": AnnotationFormat(
        read=lambda files: read_mpii_hrnet(files.annotations, files.head_boxes),
        index_base=1,
        takes=("head_boxes",),
    ),
    "mpii-mat": AnnotationFormat(read=_alone(read_mpii_mat), index_base=1),
    "mpii-h5": AnnotationFormat(read=_alone(read_mpii_h5), index_base=1, center_adjusted=True),
    "lsp": AnnotationFormat(read=_alone(read_lsp)),
    "lspet": AnnotationFormat(read=_alone(read_lspet)),
    "coco": AnnotationFormat(
        read=read_coco,
        takes=_OWN_JOINTS,
        held="upright",
        advice=Advice(missing="expected the visibility 0 where a joint is not annotated"),
    ),
    "flic": AnnotationFormat(read=_alone(read_flic), index_base=1, center_adjusted=True),
    "table": AnnotationFormat(
        read=_read_table,
        index_base=None,
        takes=("joint_set",),
        held="upright",
        advice=Advice(
            missing="expected empty cells where a joint is not annotated, or missing = {value} in "
            "the joint-set file",
            unit="expected pixels, or unit = 'share' in the joint-set file (unit = 'pixels' if "
            "these are pixels)",
        ),
    ),
}


def read_annotations(source: str, files: AnnotationFiles) -> Annotations:
    """Read `files` in the format `source`. Raises ValueError naming file, field and value."""
    found = SOURCES[source]
    for option in get_args(Option):
        value = getattr(files, option)
        if value and option not in found.takes:
            raise ValueError(f"--{option.replace('_', '-')} {value}: {source} takes none")
    annotations = found.read(files)
    if not annotations.people:
        raise ValueError(f"{files.annotations}: no people")
    base = annotations.index_base if found.index_base is None else found.index_base
    check_plausible(annotations, str(files.annotations), base or 0, found.advice)
    return annotations
