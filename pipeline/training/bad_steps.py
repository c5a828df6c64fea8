"""What is said of a step that is left out because its loss or gradient is not finite."""

from collections.abc import Sequence
from itertools import groupby

from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.streaming import ShardStream
from pipeline.pose.shapes import Positions


class BadStepsError(ArithmeticError):
    """More steps than a run allows had a loss or gradient that is not finite."""


def sample_names(positions: Positions, shards: ShardReader | ShardStream) -> str:
    """Shards and keys of samples; of a stream, which has neither, their numbers in the epoch."""
    chosen = sorted(set(positions.tolist()))
    if isinstance(shards, ShardStream):
        return "numbers " + ", ".join(map(str, chosen)) + " of the stream"
    by_shard = groupby(map(shards.place, chosen), key=lambda place: place[0])
    return "; ".join(
        f"{shard}: {', '.join(key for _, key in places)}" for shard, places in by_shard
    )


def of_all_ranks(names: Sequence[str]) -> str:
    """The samples of every rank, in order of ranks."""
    if len(names) == 1:
        return names[0]
    return " | ".join(f"rank {rank}: {samples}" for rank, samples in enumerate(names))


def describe_bad_step(wrong: str, bad_steps: int, allowed: int, samples: str) -> str:
    """Say that a step was left out, the last of `bad_steps`. Raises BadStepsError if it is one more than `allowed`."""
    if bad_steps > allowed:
        raise BadStepsError(
            f"{wrong}; that is bad step {bad_steps}, optim.max_bad_steps allows {allowed}; a smaller "
            f"optim.learning_rate or optim.clip_norm may help; its samples: {samples}"
        )
    return f"{wrong}; step left out, {bad_steps} of {allowed} allowed; its samples: {samples}"
