"""A rank's own word of how far it is: cheap enough to be given at every step, and read by its watchdog."""

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


class Mark(NamedTuple):
    """The last progress that a rank has made: `done` within stage number `stage`, what it was, and when.

    Both can be compared between ranks; `at` is of this process's `time.monotonic()`.
    """

    stage: int
    done: int
    what: str
    at: float


class Pulse:
    """Progress as one rank makes it. Threads may read `last` at any time, since it changes as a whole."""

    def __init__(self) -> None:
        self.last = Mark(0, 0, "its start", time.monotonic())

    def begin(self, what: str) -> None:
        """Note that a stage has begun; every rank must have the same stages in the same order."""
        self.last = Mark(self.last.stage + 1, 0, what, time.monotonic())

    def beat(self, what: str) -> None:
        """Note progress within the stage, of which ranks may make more or less."""
        stage, done, _, _ = self.last
        self.last = Mark(stage, done + 1, what, time.monotonic())

    def of_each(self, items: Iterable[Item], stage: str) -> Iterator[Item]:
        """Yield the items of a stage and note each of them."""
        self.begin(f"the beginning of {stage}")
        for number, item in enumerate(items, start=1):
            self.beat(f"batch {number} of {stage}")
            yield item
        self.begin(f"the end of {stage}")
