"""Settings of packing: the annotations to read, the split, and how crops are stored."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pipeline.io.parsing import fields_of, number_of, whole_of
from pipeline.settings.check import require

SplitBy = Literal["auto", "random", "train", "val"]
Exif = Literal["auto", "upright", "stored"]
SourceName = Literal[
    "mpii-json",
    "mpii-hrnet",
    "mpii-mat",
    "mpii-h5",
    "lsp",
    "lspet",
    "coco",
    "yolo-pose",
    "deeplabcut",
    "sleap",
    "cvat",
    "label-studio",
    "flic",
    "table",
    "synthetic",
]
# More would take over 320 MB to decode, and is probably an attack or a mistake.
MAX_PIXELS = 80_000_000
SYNTHETIC_NAME: SourceName = "synthetic"
TABLE_NAME: SourceName = "table"


@dataclass(frozen=True, kw_only=True)
class AnnotationFiles:
    """Files of a source, and what to take of them. Only some sources take more than the first."""

    annotations: Path
    head_boxes: Path | None = None
    joint_set: Path | None = None
    category: str | None = None
    predictions: bool = False
    images: Path | None = None
    exif: Exif = "auto"
    max_pixels: int = MAX_PIXELS

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are given."""
        given = (self.annotations, self.head_boxes, self.joint_set)
        return tuple(path for path in given if path is not None)


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """Size and quality of a person's stored crop.

    The defaults follow the table that the benchmark of the loader prints. At a margin of 2, an
    input is 2.5 dB closer to the photograph's with 320 px instead of 256, and 0.9 dB closer with
    quality of 95 instead of 90. Decoding then takes 1.4 and 1.2 times as long.
    """

    person_px: int = 256
    """Stored side of a person's frame in pixels. Smaller photographs are not enlarged."""
    margin: float = 2.0
    """Side of the stored square relative to the frame's. The default augmentation reaches 2."""
    jpeg_quality: int = 90
    """JPEG quality, 1-100. 95 takes 1.4 times the bytes of 90."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("person_px", 32, 4096),
            ("margin", 1, 4),
            ("jpeg_quality", 1, 100),
        ):
            value = getattr(self, name)
            require(least <= value <= most, f"crop.{name}", f"from {least} to {most}", value)

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read the fields as JSON has them. Raises ValueError that names the field."""
        names = [item.name for item in fields(cls)]
        given = fields_of(value, where, required=names)
        return cls(
            person_px=whole_of(given["person_px"], f"{where}.person_px"),
            margin=number_of(given["margin"], f"{where}.margin"),
            jpeg_quality=whole_of(given["jpeg_quality"], f"{where}.jpeg_quality"),
        )


@dataclass(frozen=True, kw_only=True)
class PackSettings:
    """Annotations to pack, their split, and the form of the shards."""

    source: str
    """File or folder of annotations, whose format its content tells; or a format's name, with
    --annotations. synthetic: renders people, without files."""
    images: Path | None = None
    """Folder of the photographs; by default where the annotations are, or above."""
    annotations: Path | None = None
    """Annotation file or folder of a format that is named."""
    head_boxes: Path | None = None
    """MPII's detections_our_format.mat: the head boxes of validation people, for PCKh."""
    joint_set: Path | None = None
    """Joint-set file in TOML: joints, mirror pairs, limbs, first pixel's number. A table needs
    one; for sources that name their joints it stands in for what they say."""
    category: str | None = None
    """Category of a source with several: only its people are packed."""
    predictions: bool = False
    """Whether people that a tool found by itself are packed like labelled ones."""
    out: Path
    """Folder to write: train-000000.tar ..., val-000000.tar ... and index.json."""
    split: SplitBy = "auto"
    """Split of the people. auto: the source's own, else random images for validation.
    train, val: all people in that split."""
    val_images: int | None = None
    """Images for validation in a random split. None: 500, or a fifth where that is fewer."""
    people_per_shard: int = 512
    """People per shard, or a few more, since an image's people stay together. Training needs at
    least as many shards as workers."""
    max_left_out: float = 0.01
    """Largest share of people, 0-1, to leave out for missing, unreadable or mismatched images."""
    scenes: int = 4500
    """Scenes that synthetic renders, with one or two people each."""
    seed: int = 0
    """Seed of the split, of the order and of synthetic scenes."""
    exif: Exif = "auto"
    """How joints see photographs with an EXIF orientation. upright: as viewers show them; stored:
    as their pixels are stored; auto: as the sizes in the annotations tell, else as the source's
    authors did, else upright. Shards hold all photographs upright."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of a photograph. People of larger ones are left out."""
    crop: CropSettings = field(default_factory=CropSettings)

    def __post_init__(self) -> None:
        for name, known in (("split", SplitBy), ("exif", Exif)):
            word = getattr(self, name)
            require(word in get_args(known), name, f"one of {', '.join(get_args(known))}", word)
        for name, least in (
            ("val_images", 1),
            ("people_per_shard", 1),
            ("scenes", 2),
            ("seed", 0),
            ("max_pixels", 1),
        ):
            value = getattr(self, name)
            require(value is None or value >= least, name, f"at least {least}", value)
        share = self.max_left_out
        require(0 <= share <= 1, "max_left_out", "from 0 to 1", share)
        if self.source == SYNTHETIC_NAME and self.head_boxes is not None:
            raise ValueError("--head-boxes is not for synthetic, whose people have head sizes")
        is_format, is_rendered = self.source in get_args(SourceName), self.source == SYNTHETIC_NAME
        if is_format and not is_rendered and self.annotations is None:
            raise ValueError(f"--annotations is required for {self.source}")
        for name, is_taken in (
            ("images", not is_rendered),
            ("annotations", is_format and not is_rendered),
        ):
            if getattr(self, name) is not None and not is_taken:
                raise ValueError(f"--{name} is not for {self.source}")
        if self.source == TABLE_NAME and self.joint_set is None:
            raise ValueError(f"--joint-set is required for {self.source}")

    @property
    def files(self) -> AnnotationFiles | None:
        """The annotation files; None for synthetic."""
        if self.annotations is None:
            return None
        return AnnotationFiles(
            annotations=self.annotations,
            head_boxes=self.head_boxes,
            joint_set=self.joint_set,
            category=self.category,
            predictions=self.predictions,
            images=self.images,
            exif=self.exif,
            max_pixels=self.max_pixels,
        )
