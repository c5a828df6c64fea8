"""A rank's own word of how far it is: cheap enough to be given at every step, and read by its watchdog."""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from pipeline.pose.shapes import Positions

Item = TypeVar("Item")
# Of the environment: Ray's workers on this machine inherit it.
FILE_VARIABLE = "HOURGLASS_STAGES"
# Names the folder to write to, in the environment of the training processes; unset: nothing is written.
TRACE_FOLDER = "HOURGLASS_WITNESS"


class Mark(NamedTuple):
    """The last progress that a rank has made: `done` within stage number `stage`, what it was, and when.

    Both can be compared between ranks; `at` is of this process's `time.monotonic()`.
    """

    stage: int
    done: int
    what: str
    at: float


class ProgressMarker:
    """Progress as one rank makes it. Threads may read `last` at any time, since it changes as a whole."""

    def __init__(self) -> None:
        self.last = Mark(0, 0, "its start", time.monotonic())

    def begin(self, what: str) -> None:
        """Note that a stage has begun; every rank must have the same stages in the same order."""
        self.last = Mark(self.last.stage + 1, 0, what, time.monotonic())

    def advance(self, what: str) -> None:
        """Note progress within the stage, of which ranks may make more or less."""
        stage, done, _, _ = self.last
        self.last = Mark(stage, done + 1, what, time.monotonic())

    def of_each(self, items: Iterable[Item], stage: str) -> Iterator[Item]:
        """Yield the items of a stage and note each of them."""
        self.begin(f"the beginning of {stage}")
        for number, item in enumerate(items, start=1):
            self.advance(f"batch {number} of {stage}")
            yield item
        self.begin(f"the end of {stage}")


def mark_stage(stage: str) -> None:
    """Note that this process has reached `stage` now, if HOURGLASS_STAGES names a file."""
    path = os.environ.get(FILE_VARIABLE)
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps([stage, time.time()]) + "\n")


def stages_in(path: Path) -> dict[str, float]:
    """Read when each stage was first reached, in seconds of the clock `time.time`."""
    found: dict[str, float] = {}
    for line in path.read_text().splitlines():
        stage, at = json.loads(line)
        found.setdefault(stage, at)
    return found


class StepTrace:
    """Adds a line of JSON for each step to a file of this process's own.

    `group` is the same for the ranks that train together, and no others'. What
    is written is the kernel's at once: it survives the process, though not the machine.
    """

    def __init__(self, folder: Path, run: str, group: str, rank: int, workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{run}-{group}-{rank}.jsonl").open("ab", buffering=0)
        self._write(
            {"run": run, "group": group, "rank": rank, "workers": workers, "pid": os.getpid()}
        )

    def stepped(self, epoch: int, step: int, positions: Positions) -> None:
        """Note that step `step` (from 1) of epoch `epoch` (from 0) was taken on the samples at these positions."""
        self._write({"epoch": epoch, "step": step, "positions": positions.tolist()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, told: dict[str, object]) -> None:
        self._file.write(json.dumps({"time": time.time()} | told).encode() + b"\n")


def no_trace(epoch: int, step: int, positions: Positions) -> None:
    """Note nothing."""
