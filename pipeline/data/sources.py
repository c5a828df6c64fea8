"""The annotation formats that can be packed, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.annotations import Annotations
from pipeline.data.coco import read_coco
from pipeline.data.lsp import read_lsp, read_lspet
from pipeline.data.mpii import read_mpii_hrnet, read_mpii_json
from pipeline.data.mpii_mat import read_mpii_mat
from pipeline.data.pose_h5 import read_flic, read_mpii_h5


@dataclass(frozen=True, kw_only=True)
class Source:
    """An annotation format and its conventions.

    `index_base` is the number of the first pixel in the file (people always
    come out 0-based); `center_adjusted` says whether the file's centre and
    scale already carry the authors' adjustment.
    """

    read: Callable[[Path, Path | None], Annotations]
    index_base: int
    center_adjusted: bool
    takes_head_boxes: bool = False


SOURCES = {
    "mpii-json": Source(
        read=read_mpii_json, index_base=1, center_adjusted=False, takes_head_boxes=True
    ),
    "mpii-hrnet": Source(
        read=read_mpii_hrnet, index_base=1, center_adjusted=False, takes_head_boxes=True
    ),
    "mpii-mat": Source(
        read=lambda path, _: read_mpii_mat(path), index_base=1, center_adjusted=False
    ),
    "mpii-h5": Source(read=lambda path, _: read_mpii_h5(path), index_base=1, center_adjusted=True),
    "lsp": Source(read=lambda path, _: read_lsp(path), index_base=0, center_adjusted=False),
    "lspet": Source(read=lambda path, _: read_lspet(path), index_base=0, center_adjusted=False),
    "coco": Source(read=lambda path, _: read_coco(path), index_base=0, center_adjusted=False),
    "flic": Source(read=lambda path, _: read_flic(path), index_base=1, center_adjusted=True),
}


def read_annotations(source: str, path: Path, head_boxes: Path | None) -> Annotations:
    """Read `path` in the format `source`. Raises ValueError naming file, field and value."""
    reader = SOURCES[source]
    if head_boxes is not None and not reader.takes_head_boxes:
        raise ValueError(f"--head-boxes {head_boxes}: {source} takes none")
    annotations = reader.read(path, head_boxes)
    if not annotations.people:
        raise ValueError(f"{path}: no people")
    return annotations
