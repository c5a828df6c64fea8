"""When a run saves its checkpoints, and from which one it resumes."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from pipeline.io.console import say
from pipeline.run.checkpoint_manager import (
    CheckpointManager,
    EpochEntry,
    checkpoint_name,
    newest_sound,
)
from pipeline.run.cut import metric_of_stack
from pipeline.run.layout import STOP_NAME
from pipeline.run.metadata import Progress
from pipeline.run.ownership import Writer
from pipeline.training.distributed import Request, broadcast
from pipeline.training.trainer import Trainer

_LOOK_EVERY_S = 0.5


class Checkpointer:
    """Resumes a trainer and saves its checkpoints. One on each rank; rank 0 writes, as `writer`.

    Methods raise SupersededError once another start owns the run. `preemption_check_s` is the
    interval of the cluster's preemption checks; 0 disables them.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        *,
        writer: Writer | None = None,
        preemption_check_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trainer, self._folder, self._clock = trainer, folder, clock
        self._is_first = trainer.rank == 0
        if self._is_first:
            keep, models = trainer.settings.ray.keep_checkpoints, trainer.settings.tracking.models
            metric = trainer.measure.metric_name
            others = [metric_of_stack(k, metric) for k in range(1, trainer.measured_stacks)]
            self._manager = CheckpointManager(
                folder, keep, metric, models, others=others, writer=writer
            )
        self._preemption_check_s = preemption_check_s
        self._saved_at = self._asked_at = self._looked_at = clock()
        self._tags: dict[str, str] = {}

    def resume(self) -> dict[str, float]:
        """Resume from the newest sound checkpoint; without one start from `model.start`, if set.

        Returns the training metrics of an epoch whose steps are done but whose evaluation is not,
        otherwise nothing. Raises ValueError if checkpoints exist and none can be used.
        """
        trainer = self._trainer
        found = newest_sound(self._folder, say) if self._is_first else None
        name = broadcast(found[0].name if found else "", trainer.workers, trainer.device)
        if not name:
            trainer.state.start()
            return {}
        trainer.marker.begin(f"the beginning of reading {name}")
        metadata = trainer.state.restore(self._folder / name)
        progress, metrics = metadata.progress, metadata.metrics
        is_evaluated = trainer.measure.metric_name in metrics
        if self._is_first:
            seen = f"{progress.samples:,} samples"
            say(f"resuming from {name}, after {seen}, with {trainer.workers} workers")
            if is_evaluated:
                # The run may have died between the checkpoint and its journal entry.
                self._manager.enter(EpochEntry(epoch=progress.epochs, metrics=metrics))
        is_between = progress.epochs > 0 and progress.epoch_steps == 0
        return {} if is_evaluated or not is_between else metrics

    def request(self) -> Request:
        """Return this rank's request to all. Cheap enough to be called after every step."""
        now = self._clock()
        if not self._is_first or now - self._looked_at < _LOOK_EVERY_S:
            return Request.NONE
        self._looked_at, request = now, Request.NONE
        self._manager.check()
        if (self._folder / STOP_NAME).exists():
            request |= Request.STOP
        minutes = self._trainer.settings.ray.checkpoint_minutes
        if minutes and now - self._saved_at >= 60 * minutes:
            request |= Request.CHECKPOINT
            self._saved_at = now
        if self._preemption_check_s and now - self._asked_at >= self._preemption_check_s:
            request |= Request.ASK
            self._asked_at = now
        return request

    def save(self) -> None:
        """Save a checkpoint within an epoch. Every rank must call it."""
        self._save(self._trainer.state.progress, {})

    def save_trained(self, metrics: dict[str, float]) -> None:
        """Save a checkpoint after an epoch's steps. Every rank must call it."""
        epochs, steps = self._trainer.state.progress.epochs, self._trainer.steps_per_epoch
        self._save(Progress(epochs=epochs - 1, epoch_steps=steps), metrics)

    def save_evaluated(
        self, metrics: dict[str, float], extras: Mapping[str, bytes], picture: bytes
    ) -> None:
        """Save an epoch's checkpoint with all its metrics, and then enter them in the journal.

        `extras` are further files by name, `picture` a PNG of predictions. Every rank must call it.
        """
        progress = self._trainer.state.progress
        entry = EpochEntry(epoch=progress.epochs, metrics=metrics, picture=picture)
        self._save(progress, metrics, extras, entry)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Enter tags in the journal, with the next checkpoint."""
        self._tags |= tags

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the last checkpoint. Raises StorageError if it failed and nothing else did."""
        failure = self._manager.close() if self._is_first else None
        if failure is not None and kind is None:
            raise failure

    def _save(
        self,
        position: Progress,
        metrics: dict[str, float],
        extras: Mapping[str, bytes] | None = None,
        epoch: EpochEntry | None = None,
    ) -> None:
        self._trainer.marker.begin("the beginning of a checkpoint")
        snapshot = self._trainer.state.snapshot(metrics, extras)
        self._trainer.marker.begin("the copy of a checkpoint")
        self._saved_at = self._clock()
        if snapshot is not None:
            tags, self._tags = self._tags, {}
            name = checkpoint_name(position)
            self._manager.add(name, snapshot, epoch=epoch, tags=tags)
