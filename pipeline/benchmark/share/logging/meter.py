"""Keepers that measure what recording takes of the process that trains, and one that records nothing."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.archive import CHECKPOINT_THREAD
from pipeline.benchmark.share.turns import TurnLearner
from pipeline.keeper import Keeper
from pipeline.learner import StepReport
from pipeline.signals import Signal


@dataclass(kw_only=True)
class Meter:
    """Seconds in all, of so many epochs."""

    epochs: int = 0
    journal_s: float = 0.0
    """Writing the journal, on the thread of the checkpoints."""
    journal_cpu_s: float = 0.0
    """The same in CPU time of that thread."""
    file_s: float = 0.0
    """Writing pictures to the disk, on the thread of the loop."""
    picture_s: float = 0.0
    """Predicting and drawing for the pictures, on the thread of the loop."""


class DrawingLearner(TurnLearner):
    """A learner that notes when it begins to draw an epoch's picture, and whose turn ends when all of the epoch is on the disk."""

    drawing_since = 0.0

    def train_epoch(
        self, every_s: float, wish: Callable[[], Signal] = lambda: Signal.NONE
    ) -> Iterator[StepReport]:
        # Between turns the process stands still: what it is writing would seem to take as long.
        for thread in threading.enumerate():
            if thread.name == CHECKPOINT_THREAD:
                thread.join()
        return super().train_epoch(every_s, wish)

    def draw_overlays(self, title: str) -> Figure:
        self.drawing_since = time.monotonic()
        return super().draw_overlays(title)


class MeteredKeeper(Keeper):
    """A keeper that measures its journal and pictures."""

    def __init__(self, learner: DrawingLearner, folder: Path) -> None:
        super().__init__(learner, folder)
        self._drawing, self.meter = learner, Meter()

    def keep_evaluated(
        self, metrics: dict[str, float], extras: Mapping[str, bytes], picture: bytes
    ) -> None:
        self.meter.picture_s += time.monotonic() - self._drawing.drawing_since
        self.meter.epochs += 1
        super().keep_evaluated(metrics, extras, picture)

    def _draw(self, path: Path, picture: bytes) -> None:
        start = time.monotonic()
        super()._draw(path, picture)
        self.meter.file_s += time.monotonic() - start

    def _enter(self) -> None:
        start, cpu = time.monotonic(), time.thread_time()
        super()._enter()
        self.meter.journal_s += time.monotonic() - start
        self.meter.journal_cpu_s += time.thread_time() - cpu


class SilentKeeper(MeteredKeeper):
    """A keeper of checkpoints and pictures alone: nothing is entered in a journal."""

    def _enter(self) -> None:
        self._pending.clear()
