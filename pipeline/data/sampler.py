"""The order of an epoch's samples, and each worker's share of it."""

from collections.abc import Iterator

import numpy as np

from pipeline.pose.shapes import Int64, Positions


def epoch_order(
    bounds: Int64[np.ndarray, " shard_and_end"], seed: int, epoch: int, window: int
) -> Positions:
    """Permute all samples: shards shuffled, then samples within windows.

    The order is a pure function of the arguments, so every worker has the same. `bounds` are the
    positions where shards begin, and the total.
    """
    random = np.random.default_rng([seed, epoch])
    shards = random.permutation(len(bounds) - 1)
    order = np.concatenate([np.arange(bounds[shard], bounds[shard + 1]) for shard in shards])
    for start in range(0, len(order), window):
        random.shuffle(order[start : start + window])
    return order


def rank_batches(
    order: Positions, batch_size: int, rank: int, workers: int, first_step: int = 0
) -> Iterator[Positions]:
    """Yield this rank's share of each step's batch, from step `first_step` on.

    Every rank takes the same number of steps; the last `len(order) % batch_size` samples of the
    order are dropped. `batch_size` counts all workers; where it does not divide by their number,
    some have a sample more than others.
    """
    first, end = batch_size * rank // workers, batch_size * (rank + 1) // workers
    for step in range(first_step, len(order) // batch_size):
        start = step * batch_size
        yield order[start + first : start + end]


def validation_batches(
    samples: int, batch_size: int, rank: int, workers: int
) -> Iterator[Positions]:
    """Yield the batches that this rank evaluates: every sample on exactly one rank.

    The batches are the same for any number of workers, and so are results, to the last bit.
    """
    for start in range(rank * batch_size, samples, workers * batch_size):
        yield np.arange(start, min(start + batch_size, samples))
