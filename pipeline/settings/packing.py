"""The settings of packing: what becomes shards, and how crops are stored."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SourceName = Literal[
    "mpii-json",
    "mpii-hrnet",
    "mpii-mat",
    "mpii-h5",
    "lsp",
    "lspet",
    "coco",
    "flic",
    "table",
    "synthetic",
]
SYNTHETIC_NAME: SourceName = "synthetic"
TABLE_NAME: SourceName = "table"


@dataclass(frozen=True, kw_only=True)
class AnnotationFiles:
    """The files that a source is read from; the last two only where it takes them."""

    annotations: Path
    head_boxes: Path | None = None
    joint_set: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Those that are given."""
        given = (self.annotations, self.head_boxes, self.joint_set)
        return tuple(path for path in given if path is not None)


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """How a person's crop is stored.

    The defaults come of the table that `jobs.benchmark loader` prints. At a
    margin of 2, from 256 to 320 px and from quality 90 to 95, an augmented
    input comes 2.5 and 0.9 dB nearer to the photograph's, and decoding takes
    1.4 and 1.2 times as long.
    """

    person_px: int = 256
    """Stored side of a person's frame in pixels; smaller photographs are not enlarged."""
    margin: float = 2.0
    """Side of the stored square over the frame's; 2 is as far as the default augmentation reaches."""
    jpeg_quality: int = 90
    """JPEG quality, 1-100; 95 takes 1.4 times the bytes."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("person_px", 32, 4096),
            ("margin", 1, 4),
            ("jpeg_quality", 1, 100),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"crop.{name} must be from {least} to {most}, got {value}")


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """What to pack and how."""

    source: SourceName
    """Format of the annotations; synthetic: people rendered on the spot, without files."""
    images: Path | None = None
    """Folder of the photographs."""
    annotations: Path | None = None
    """Annotation file."""
    head_boxes: Path | None = None
    """MPII's detections_our_format.mat, with the head boxes of validation people that PCKh needs."""
    joint_set: Path | None = None
    """Joint-set file of a table, in TOML: names, mirror pairs, limbs, and how its pixels count."""
    out: Path
    """Folder to write: train-000000.tar ..., val-000000.tar ... and index.json."""
    split: Literal["auto", "random", "train", "val"] = "auto"
    """Which people validate; auto: the source's own split, else random images; train, val: all go there."""
    val_images: int = 500
    """Images that a random split holds out."""
    people_per_shard: int = 512
    """People in a shard, or a few more, since an image stays whole; training needs at least as many shards as workers."""
    max_left_out: float = 0.01
    """Share of people, 0-1, that may be left out for missing, unreadable or unfitting images."""
    scenes: int = 4500
    """Scenes that synthetic renders, with one or two people each."""
    seed: int = 0
    """Seed of the split, of the order and of synthetic scenes."""
    crop: CropSettings = field(default_factory=CropSettings)

    def __post_init__(self) -> None:
        for name, least in (("val_images", 1), ("people_per_shard", 1), ("scenes", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.max_left_out <= 1:
            raise ValueError(f"max_left_out must be from 0 to 1, got {self.max_left_out}")
        if self.source == SYNTHETIC_NAME and self.head_boxes is not None:
            raise ValueError("--head-boxes is not for synthetic, whose people have head sizes")
        needs_files = self.source != SYNTHETIC_NAME
        for name in ("images", "annotations"):
            if (getattr(self, name) is not None) != needs_files:
                raise ValueError(
                    f"--{name} is {'required for' if needs_files else 'not for'} {self.source}"
                )
        is_table = self.source == TABLE_NAME
        if (self.joint_set is not None) != is_table:
            raise ValueError(
                f"--joint-set is {'required for' if is_table else 'not for'} {self.source}"
            )

    @property
    def files(self) -> AnnotationFiles | None:
        """The annotation files; None where people are rendered."""
        if self.annotations is None:
            return None
        return AnnotationFiles(
            annotations=self.annotations, head_boxes=self.head_boxes, joint_set=self.joint_set
        )
