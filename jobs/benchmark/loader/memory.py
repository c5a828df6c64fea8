"""Whether a worker's resident memory grows with epochs, or with the dataset."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from jobs.benchmark.loader.variants import INPUT_PX
from jobs.benchmark.timing import in_fresh_process
from pipeline.data.loader import SampleLoader, stream_training
from pipeline.data.sampler import epoch_order, rank_batches
from pipeline.data.shards.reader import ShardReader
from pipeline.io.processes import memory_mib
from pipeline.pose.joint_sets import MPII
from pipeline.settings import DataSettings

EPOCHS = (1, 2, 5, 10, 20)


def measure_memory(
    shards: Sequence[str], batch_size: int, epochs: Sequence[int], larger: Path
) -> dict[str, Any]:
    """Measure resident MiB by epoch over the dataset and over one four times as large.

    Each in a fresh process. The larger dataset is written to the folder `larger`.
    """
    people = len(ShardReader(shards))
    found = {
        count: in_fresh_process(resident_over_epochs, held, batch_size, epochs)
        for count, held in ((people, shards), (4 * people, _copies(shards, larger)))
    }
    # The first epoch fills memory that is reused later.
    early, last = sorted(epochs)[1], max(epochs)
    small, large = found.values()
    return {
        "resident_mib": found,
        "growth_mib": {held: after[last] - after[early] for held, after in found.items()},
        "larger_dataset_mib": large[last] - small[last],
    }


def resident_over_epochs(
    shards: Sequence[str], batch_size: int, epochs: Sequence[int] = EPOCHS
) -> dict[int, float]:
    """Return resident MiB of this process after each of `epochs`, with two decode threads."""
    torch.set_num_threads(1)
    settings = DataSettings(threads=2)
    reader = ShardReader(shards)
    loader = SampleLoader(reader, MPII, INPUT_PX)
    found = {}
    for epoch in range(max(epochs)):
        order = epoch_order(reader.bounds, settings.seed, epoch, settings.shuffle_window)
        steps = rank_batches(order, batch_size, rank=0, workers=1)
        for batch in stream_training(loader, steps, settings, epoch):
            assert len(batch) == batch_size
        if epoch + 1 in epochs:
            found[epoch + 1] = memory_mib("VmRSS")
    return found


def _copies(shards: Sequence[str], folder: Path) -> list[str]:
    """Copy each shard four times; without members.npz, so that they are scanned."""
    folder.mkdir()
    made = [folder / f"{copy}-{Path(shard).name}" for copy in range(4) for shard in shards]
    for number, path in enumerate(made):
        shutil.copy(shards[number % len(shards)], path)
    return list(map(str, made))
