"""What is done to a run in the soak: drawn by a seeded generator, and what came of it."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from jobs.chaos.evidence import Position, TakenStep


class Kind(StrEnum):
    """What can be done to a run."""

    WORKER = "worker killed"
    DRIVER = "driver killed"
    STOP = "driver stopped by SIGTERM"
    NODE = "node lost"
    JOIN = "node added"
    SERVER = "MLflow server killed"


_WEIGHTS = {
    Kind.WORKER: 5,
    Kind.DRIVER: 3,
    Kind.STOP: 2,
    Kind.NODE: 3,
    Kind.JOIN: 1,
    Kind.SERVER: 3,
}
# Most faults wait until training goes on again; the others strike while it is still starting.
_HASTY_SHARE = 0.2
_HASTY_S = (1.0, 6.0)
_CALM_S = (8.0, 30.0)
# Until what was taken away is there again: a node, the server.
_AWAY_S = (5.0, 30.0)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A fault to come: `wait_s` after the last one, or after training went on unless it `is_hasty`.

    `choice` (0-1) says which of several is struck, `away_s` for how long.
    """

    kind: Kind
    is_hasty: bool
    wait_s: float
    choice: float
    away_s: float


def draws(seed: int) -> Iterator[Draw]:
    """Yield faults without end, the same for the same seed."""
    chance = random.Random(seed)
    while True:
        is_hasty = chance.random() < _HASTY_SHARE
        yield Draw(
            kind=chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0],
            is_hasty=is_hasty,
            wait_s=chance.uniform(*(_HASTY_S if is_hasty else _CALM_S)),
            choice=chance.random(),
            away_s=chance.uniform(*_AWAY_S),
        )


@dataclass(kw_only=True)
class Fault:
    """What was done, at a time in seconds since 1970, when training was at `before`.

    `is_fatal` is for those that end the ranks that train: only others, begun
    later, can show that it was survived. `is_settled` says whether all else
    that belongs to surviving has come, such as the delivery of what has waited.
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
        """Whether training came further afterwards, by itself or by the same command."""
        return self.recovered is not None and self.is_settled and not self.is_given_up

    @property
    def lost_s(self) -> float | None:
        """Seconds until the first step beyond those before; None: there was none."""
        return None if self.recovered is None else self.recovered - self.time

    def notice(self, steps: Sequence[TakenStep]) -> None:
        """Look among steps, the earliest first, for one that shows that training came further."""
        for step in steps:
            is_other = not self.is_fatal or step.begun > self.time
            is_further = step.time > self.time and step.position > self.before
            if self.recovered is None and is_other and is_further:
                self.recovered = step.time
