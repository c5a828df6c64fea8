"""Settings of samples and their variation."""

from dataclasses import dataclass
from typing import Literal

from pipeline.settings.check import require


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where samples come from and how they are varied."""

    train: str = ""
    """Training shards: comma-separated globs or braces, local or at http(s)://, s3:// or gs://, such as 'out/train-*.tar' or 'https://host/train-{000000..000012}.tar'."""
    val: str = ""
    """Validation shards, like data.train."""
    seed: int = 0
    """Seed of the order of samples and of augmentation."""
    shuffle_window: int = 2048
    """Samples that are shuffled together, after the shards themselves have been shuffled."""
    threads: int = 1
    """Threads in each worker that decode and warp."""
    reading: Literal["exact", "streaming"] = "exact"
    """How training shards are read: exact: each sample once an epoch, through their index; streaming: front to back through webdataset, for tars that are compressed or have no index, approximate: a sample may come twice or not at all."""
    epoch_samples: int = 0
    """Training samples that make an epoch when streaming, where no index counts them."""
    cache: str = ""
    """Folder on each node for whole copies of remote shards; empty: remote samples are read one by one."""
    cache_gb: float = 20.0
    """Bound of data.cache in gigabytes of 1e9 bytes; the least recently used copies go first."""
    bad_samples: int = 0
    """Samples that each worker may pass over, named and counted, for being cut off, damaged or without joints; 0: stop at the first."""
    scale_jitter: float = 0.25
    """Standard deviation of log2 of the scale factor, clipped at twice that (0: none)."""
    rotation_deg: float = 30.0
    """Standard deviation of the rotation in degrees, clipped at twice that (0: none)."""
    rotation_share: float = 0.4
    """Share of samples that are rotated, 0-1."""
    flip_share: float = 0.5
    """Share of samples that are mirrored, 0-1."""
    color_jitter: float = 0.4
    """Each colour channel is multiplied by a factor from 1 - this to 1 + this."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, "data.seed", "at least 0", self.seed)
        require(
            self.shuffle_window >= 1,
            "data.shuffle_window",
            "at least 1",
            self.shuffle_window,
        )
        require(self.threads >= 1, "data.threads", "at least 1", self.threads)
        require(self.cache_gb > 0, "data.cache_gb", "above 0", self.cache_gb)
        streams = self.reading == "streaming"
        require(
            (self.epoch_samples > 0) == streams,
            "data.epoch_samples",
            "above 0 with data.reading=streaming, else 0",
            self.epoch_samples,
        )
        require(self.bad_samples >= 0, "data.bad_samples", "at least 0", self.bad_samples)
        require(
            0 <= self.scale_jitter <= 1,
            "data.scale_jitter",
            "from 0 to 1",
            self.scale_jitter,
        )
        require(
            0 <= self.rotation_deg <= 90,
            "data.rotation_deg",
            "from 0 to 90 degrees",
            self.rotation_deg,
        )
        for name in ("rotation_share", "flip_share", "color_jitter"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name}", "from 0 to 1", value)
