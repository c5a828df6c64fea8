"""Where training samples come from: shards read exactly or streamed, past a cache or not."""

from pathlib import Path

from pipeline.io.cache import ShardCache
from pipeline.settings import DataSettings
from pipeline.shards.read import ShardReader
from pipeline.shards.streaming import ShardStream


def training_shards(
    paths: tuple[str, ...], data: DataSettings, rank: int, workers: int
) -> ShardReader | ShardStream:
    """Training shards, read as the settings say."""
    if data.reading == "exact":
        return ShardReader(paths, shard_cache(data))
    return ShardStream(
        locations=paths,
        seed=data.seed,
        rank=rank,
        workers=workers,
        window=data.shuffle_window,
    )


def shard_cache(data: DataSettings) -> ShardCache | None:
    """The cache that the settings ask for."""
    if not data.cache:
        return None
    return ShardCache(Path(data.cache), round(data.cache_gb * 1e9))
