"""The annotation formats that can be packed, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.formats.annotations import Annotations
from pipeline.data.formats.coco import read_coco
from pipeline.data.formats.lsp import read_lsp, read_lspet
from pipeline.data.formats.mpii import read_mpii_hrnet, read_mpii_json
from pipeline.data.formats.mpii_mat import read_mpii_mat
from pipeline.data.formats.pose_h5 import read_flic, read_mpii_h5
from pipeline.data.formats.table import read_table
from pipeline.pose.joint_file import read_joint_file
from pipeline.settings.packing import AnnotationFiles

_Reader = Callable[[AnnotationFiles], Annotations]


@dataclass(frozen=True, kw_only=True)
class AnnotationFormat:
    """An annotation format and its conventions.

    `index_base` is the number of the first pixel in the file (people always come out 0-based), None
    where the files state it themselves. `center_adjusted` says whether the file's centre and scale
    already carry the authors' adjustment.
    """

    read: _Reader
    index_base: int | None
    center_adjusted: bool = False
    takes_head_boxes: bool = False


def _single(read: Callable[[Path], Annotations]) -> _Reader:
    """Adapt the reader of a format that is one file."""
    return lambda files: read(files.annotations)


def _with_heads(read: Callable[[Path, Path | None], Annotations]) -> _Reader:
    """Adapt the reader of a format that takes MPII's head boxes."""
    return lambda files: read(files.annotations, files.head_boxes)


def _read_table(files: AnnotationFiles) -> Annotations:
    assert files.joint_set is not None, "PackSettings requires it of a table"
    return read_table(files.annotations, read_joint_file(files.joint_set))


SOURCES = {
    "mpii-json": AnnotationFormat(
        read=_with_heads(read_mpii_json), index_base=1, takes_head_boxes=True
    ),
    "mpii-hrnet": AnnotationFormat(
        read=_with_heads(read_mpii_hrnet), index_base=1, takes_head_boxes=True
    ),
    "mpii-mat": AnnotationFormat(read=_single(read_mpii_mat), index_base=1),
    "mpii-h5": AnnotationFormat(read=_single(read_mpii_h5), index_base=1, center_adjusted=True),
    "lsp": AnnotationFormat(read=_single(read_lsp), index_base=0),
    "lspet": AnnotationFormat(read=_single(read_lspet), index_base=0),
    "coco": AnnotationFormat(read=_single(read_coco), index_base=0),
    "flic": AnnotationFormat(read=_single(read_flic), index_base=1, center_adjusted=True),
    "table": AnnotationFormat(read=_read_table, index_base=None),
}


def read_annotations(source: str, files: AnnotationFiles) -> Annotations:
    """Read `files` in the format `source`. Raises ValueError naming file, field and value."""
    reader = SOURCES[source]
    if files.head_boxes is not None and not reader.takes_head_boxes:
        raise ValueError(f"--head-boxes {files.head_boxes}: {source} takes none")
    annotations = reader.read(files)
    if not annotations.people:
        raise ValueError(f"{files.annotations}: no people")
    return annotations
