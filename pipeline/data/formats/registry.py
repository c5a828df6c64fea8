"""The annotation formats that can be packed, by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

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


@dataclass(frozen=True, kw_only=True)
class AnnotationFormat:
    """An annotation format and its conventions.

    `read` takes the annotation file and, if the format has a second one, that of AnnotationFiles'
    field `second`. `index_base` is the number of the first pixel in the file (people always come
    out 0-based), None where the files state it themselves. `center_adjusted` says whether the
    file's centre and scale already carry the authors' adjustment. `held` says how its joints see
    photographs with an EXIF orientation, where no size in it tells. `advice`
    ends errors on coordinates that are no pixels.
    """

    read: Callable[..., Annotations]
    index_base: int | None
    center_adjusted: bool = False
    second: Literal["head_boxes", "joint_set"] | None = None
    held: Held = "stored"
    advice: Advice = field(default_factory=Advice)


SOURCES = {
    "mpii-json": AnnotationFormat(read=read_mpii_json, index_base=1, second="head_boxes"),
    "mpii-hrnet": AnnotationFormat(read=read_mpii_hrnet, index_base=1, second="head_boxes"),
    "mpii-mat": AnnotationFormat(read=read_mpii_mat, index_base=1),
    "mpii-h5": AnnotationFormat(read=read_mpii_h5, index_base=1, center_adjusted=True),
    "lsp": AnnotationFormat(read=read_lsp, index_base=0),
    "lspet": AnnotationFormat(read=read_lspet, index_base=0),
    "coco": AnnotationFormat(
        read=read_coco,
        index_base=0,
        held="upright",
        advice=Advice(missing="expected the visibility 0 where a joint is not annotated"),
    ),
    "flic": AnnotationFormat(read=read_flic, index_base=1, center_adjusted=True),
    "table": AnnotationFormat(
        read=lambda table, joint_set: read_table(table, read_joint_file(joint_set)),
        index_base=None,
        second="joint_set",
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
    if files.head_boxes is not None and found.second != "head_boxes":
        raise ValueError(f"--head-boxes {files.head_boxes}: {source} takes none")
    second = [getattr(files, found.second)] if found.second else []
    annotations = found.read(files.annotations, *second)
    if not annotations.people:
        raise ValueError(f"{files.annotations}: no people")
    base = annotations.index_base if found.index_base is None else found.index_base
    check_plausible(annotations, str(files.annotations), base or 0, found.advice)
    return annotations
