"""Faults of a soak: drawn by a seeded generator, and whether training survived them."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from jobs.chaos.evidence import Position, Taking


class Kind(StrEnum):
    """Kinds of faults."""

    WORKER = "worker killed"
    DRIVER = "driver killed"
    STOP = "driver stopped by SIGTERM"
    NODE = "node lost"
    JOIN = "node added"
    SERVER = "MLflow server killed"
    STORE_KILLED = "S3 server killed"
    STORE_REFUSING = "S3 server refusing requests (503)"
    STORE_FULL = "S3 server full (507)"
    STORE_SLOW = "S3 server slow"


# Faults of a store, which only a soak with runs in a bucket has.
OF_STORE = (Kind.STORE_KILLED, Kind.STORE_REFUSING, Kind.STORE_FULL, Kind.STORE_SLOW)
_WEIGHTS = {
    Kind.WORKER: 5,
    Kind.DRIVER: 3,
    Kind.STOP: 2,
    Kind.NODE: 3,
    Kind.JOIN: 1,
    Kind.SERVER: 3,
    **dict.fromkeys(OF_STORE, 2),
}
# Most faults wait until training has resumed; hasty ones strike while it is still starting.
_HASTY_SHARE = 0.2
_HASTY_S = (1.0, 6.0)
_CALM_S = (8.0, 30.0)
# Until a lost node or the server is started again.
_AWAY_S = (5.0, 30.0)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A fault to come, `wait_s` after training resumed, or after the last fault if it `is_hasty`.

    `choice` (0-1) selects the node or rank, `away_s` is the length of an outage.
    """

    kind: Kind
    is_hasty: bool
    wait_s: float
    choice: float
    away_s: float


def draws(seed: int, *, has_store: bool = False) -> Iterator[Draw]:
    """Yield faults without end, the same for the same seed: first one of each kind."""
    chance = random.Random(seed)
    weights = {
        kind: weight for kind, weight in _WEIGHTS.items() if has_store or kind not in OF_STORE
    }
    first = chance.sample(list(weights), len(weights))
    while True:
        is_hasty = chance.random() < _HASTY_SHARE
        yield Draw(
            kind=first.pop() if first else chance.choices([*weights], [*weights.values()])[0],
            is_hasty=is_hasty,
            wait_s=chance.uniform(*(_HASTY_S if is_hasty else _CALM_S)),
            choice=chance.random(),
            away_s=chance.uniform(*_AWAY_S),
        )


@dataclass(kw_only=True)
class Fault:
    """A fault injected at `time` (seconds since 1970), when training was at `before`.

    A fatal fault ends the ranks that train, so only a later group can show that
    it was survived. A fault is settled once everything besides training has
    recovered too, such as the upload of entries that waited for MLflow.
    """

    kind: Kind
    time: float
    before: Position
    is_fatal: bool
    is_settled: bool = True
    recovered: float | None = None
    is_given_up: bool = False

    @property
    def is_survived(self) -> bool:
        """Whether training got further afterwards, by itself or by the same command."""
        return self.recovered is not None and self.is_settled and not self.is_given_up

    @property
    def lost_s(self) -> float | None:
        """Seconds until the first step beyond `before`; None if there was none."""
        return None if self.recovered is None else self.recovered - self.time

    def notice(self, steps: Sequence[Taking]) -> None:
        """Look for the first step, in order of time, that shows that training got further."""
        for step in steps:
            is_other = not self.is_fatal or step.rank.begun > self.time
            is_further = step.time > self.time and step.position > self.before
            if self.recovered is None and is_other and is_further:
                self.recovered = step.time
