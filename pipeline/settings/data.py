"""Settings of samples and their augmentation."""

from dataclasses import dataclass
from typing import Literal

from pipeline.settings.check import (
    require,
    require_above_zero,
    require_at_least,
    require_at_most_one,
)
from pipeline.settings.packing import MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Source of the samples, and their augmentation."""

    train: str = ""
    """Training shards: comma-separated globs or braces, local or at http(s)://, s3:// or gs://.
    Examples: 'out/train-*.tar', 'https://host/train-{000000..000012}.tar'."""
    val: str = ""
    """Validation shards, in the form of data.train."""
    seed: int = 0
    """Seed of sample order and augmentation."""
    shuffle_window: int = 2048
    """Samples that are shuffled together. The order of the shards is shuffled first."""
    threads: int = 0
    """Threads per worker that decode and warp images; 0: one on CPU, for a GPU one less than the
    worker's CPUs."""
    reading: Literal["exact", "streaming"] = "exact"
    """Access to training shards. exact: reads each sample once per epoch, through the index.
    streaming: reads front to back through webdataset, for compressed tars or tars without an index.
    An epoch of a stream may repeat or miss samples."""
    epoch_samples: int = 0
    """Training samples per epoch with data.reading=streaming, which has no index to count them."""
    cache: str = ""
    """Folder on each node for copies of whole remote shards; empty: read remote samples singly."""
    cache_gb: float = 20.0
    """Size limit of data.cache in GB (1e9 bytes); the least recently used copies are removed."""
    cache_decoded_gb: float = 0.0
    """Memory of each worker, in GB (1e9 bytes), for decoded training crops, which its later epochs
    neither read nor decode; 0: none. A crop of 512 x 512 pixels takes 1 MB."""
    bad_samples: int = 0
    """Truncated or damaged samples, or samples without joints, that each worker may skip.
    They are logged and counted; 0: stop at the first."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of a stored picture; one that states more is a bad sample."""
    scale_jitter: float = 0.25
    """Standard deviation of log2 of the scale factor, clipped at twice this value; 0: none."""
    rotation_deg: float = 30.0
    """Standard deviation of the rotation in degrees, clipped at twice this value; 0: none."""
    rotation_share: float = 0.4
    """Share of samples that are rotated, 0-1."""
    flip_share: float = 0.5
    """Share of samples that are mirrored, 0-1."""
    color_jitter: float = 0.4
    """Largest change of a colour channel's gain: factors are from 1 - this to 1 + this."""

    def __post_init__(self) -> None:
        require_at_least(self, "data", 0, "seed", "bad_samples", "threads", "cache_decoded_gb")
        require_at_least(self, "data", 1, "shuffle_window", "max_pixels")
        require_above_zero(self, "data", "cache_gb")
        require(
            (self.epoch_samples > 0) == (self.reading == "streaming"),
            "data.epoch_samples",
            "above 0 with data.reading=streaming, else 0",
            self.epoch_samples,
        )
        require(
            self.cache_decoded_gb == 0 or self.reading == "exact",
            "data.cache_decoded_gb",
            "0 with data.reading=streaming, which tells no sample from another",
            self.cache_decoded_gb,
        )
        require_at_most_one(
            self, "data", "scale_jitter", "rotation_share", "flip_share", "color_jitter"
        )
        rotation = self.rotation_deg
        require(0 <= rotation <= 90, "data.rotation_deg", "from 0 to 90 degrees", rotation)
