"""Three probes of a training process: progress, startup and trace.

The progress marker stays in memory, for the watchdog. Startup times (for the benchmark of the first
step) and the step trace (for the soak) are written where the environment says, or not at all.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from pipeline.pose.shapes import Positions

Item = TypeVar("Item")
# Environment variables, which Ray's workers on this machine inherit.
STARTUP_FILE = "HOURGLASS_STARTUP"
TRACE_FOLDER = "HOURGLASS_TRACE"
# The first step through torch.compile may take this many times as long as any other step.
COMPILE_PATIENCE = 6.0


class Mark(NamedTuple):
    """The last progress of a rank: `done` within stage number `stage`, its description, its time.

    Stage and done compare between ranks. `at` is this process's `time.monotonic()`. What follows
    may take `patience` times as long as usual.
    """

    stage: int
    done: int
    what: str
    at: float
    patience: float = 1.0


class ProgressMarker:
    """Progress of one rank. Threads may read `last` at any time, since it changes as a whole."""

    def __init__(self) -> None:
        self.last = Mark(0, 0, "its start", time.monotonic())

    def begin(self, what: str) -> None:
        """Mark the start of a stage. Every rank must have the same stages in the same order."""
        self.last = Mark(self.last.stage + 1, 0, what, time.monotonic())

    def advance(self, what: str, patience: float = 1.0) -> None:
        """Mark progress within the stage, whose number of marks may differ between ranks."""
        self.last = Mark(self.last.stage, self.last.done + 1, what, time.monotonic(), patience)

    def of_each(self, items: Iterable[Item], stage: str) -> Iterator[Item]:
        """Yield the items of a stage, marking each."""
        self.begin(f"the beginning of {stage}")
        for number, item in enumerate(items, start=1):
            self.advance(f"batch {number} of {stage}")
            yield item
        self.begin(f"the end of {stage}")


def note_startup(stage: str) -> None:
    """Append to the file that HOURGLASS_STARTUP names, if any, that `stage` is reached now."""
    path = os.environ.get(STARTUP_FILE)
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps([stage, time.time()]) + "\n")


def startup_times(path: Path) -> dict[str, float]:
    """Read when each stage was first reached, in seconds of the clock `time.time`."""
    found: dict[str, float] = {}
    for line in path.read_text().splitlines():
        stage, at = json.loads(line)
        found.setdefault(stage, at)
    return found


class StepTrace:
    """A file of this process with a line of JSON per step.

    `group` identifies the ranks that train together. Lines are unbuffered: they survive the
    process, though not the machine.
    """

    def __init__(self, folder: Path, run: str, group: str, rank: int, workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{run}-{group}-{rank}.jsonl").open("ab", buffering=0)
        self._write(
            {"run": run, "group": group, "rank": rank, "workers": workers, "pid": os.getpid()}
        )

    def stepped(self, epoch: int, step: int, positions: Positions) -> None:
        """Write that step `step` (from 1) of epoch `epoch` (from 0) used samples at `positions`."""
        self._write({"epoch": epoch, "step": step, "positions": positions.tolist()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, content: dict[str, object]) -> None:
        self._file.write(json.dumps({"time": time.time()} | content).encode() + b"\n")


def no_trace(epoch: int, step: int, positions: Positions) -> None:
    """Write nothing."""
