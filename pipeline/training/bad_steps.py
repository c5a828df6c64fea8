"""Messages about skipped steps, whose loss or gradient was not finite."""

from collections.abc import Sequence
from itertools import groupby

from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.streaming import ShardStream
from pipeline.pose.shapes import Positions


class BadStepsError(ArithmeticError):
    """More steps than a run allows had a loss or gradient that is not finite."""


def sample_names(positions: Positions, shards: ShardReader | ShardStream) -> str:
    """Name samples by shard and key, or those of a stream by their numbers in the epoch."""
    chosen = sorted(set(positions.tolist()))
    if isinstance(shards, ShardStream):
        return "numbers " + ", ".join(map(str, chosen)) + " of the stream"
    by_shard = groupby(map(shards.place, chosen), key=lambda place: place[0])
    return "; ".join(
        f"{shard}: {', '.join(key for _, key in places)}" for shard, places in by_shard
    )


def describe_bad_step(wrong: str, bad_steps: int, allowed: int, samples: Sequence[str]) -> str:
    """Describe the last of `bad_steps`, with each rank's `samples`.

    Raises BadStepsError if it is one more than `allowed`.
    """
    names = samples[0]
    if len(samples) > 1:
        names = " | ".join(f"rank {rank}: {own}" for rank, own in enumerate(samples))
    if bad_steps > allowed:
        raise BadStepsError(
            f"{wrong}; this is bad step {bad_steps}, optim.max_bad_steps allows {allowed}; a "
            f"smaller optim.learning_rate or optim.clip_norm may help; its samples: {names}"
        )
    return f"{wrong}; step skipped, {bad_steps} of {allowed} allowed; its samples: {names}"
