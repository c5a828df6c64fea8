"""Keeps what a run must not lose: its checkpoints, and the journal of what they have measured."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from pipeline.io.console import say
from pipeline.run.checkpoint_manager import (
    CheckpointManager,
    StorageError,
    checkpoint_name,
    newest_sound,
    ranked,
)
from pipeline.run.journal import Journal
from pipeline.run.layout import OVERLAYS, STOP_NAME, overlay_path
from pipeline.run.metadata import Progress
from pipeline.training.distributed import Request, broadcast_text
from pipeline.training.trainer import Trainer

_LOOK_EVERY_S = 0.5
# More checkpoints in a row than this that can't be written end the run.
_FAILURES = 3


class Checkpointer:
    """One on each rank; rank 0 writes. `preemption_check_s` is how often the cluster is asked about its nodes, 0: never."""

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        *,
        preemption_check_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trainer, self._folder, self._clock = trainer, folder, clock
        self._is_first = trainer.rank == 0
        if self._is_first:
            keep, models = trainer.settings.ray.keep_checkpoints, trainer.settings.tracking.models
            # What MLflow is to have as models must be there until it has them.
            self._manager = CheckpointManager(
                folder, keep, trainer.measure.metric_name, max(1, models)
            )
            self._journal = Journal(folder)
        self._asks = preemption_check_s
        self._kept_at = self._asked_at = self._looked_at = clock()
        # What is to be entered in the journal when the checkpoint under way is on the disk.
        self._pending: list[Callable[[], None]] = []
        self._failures = 0

    def resume(self) -> dict[str, float]:
        """Go on from the newest sound checkpoint, if there is one.

        Returns the metrics of the epoch's training, if its steps are done and
        its evaluation is not; else nothing. Raises ValueError if checkpoints are
        there and none can be used.
        """
        trainer = self._trainer
        found = newest_sound(self._folder, say) if self._is_first else None
        name = broadcast_text(found[0].name if found else "", trainer.workers, trainer.device)
        if not name:
            return {}
        metadata = trainer.restore(self._folder / name)
        is_evaluated = trainer.measure.metric_name in metadata.metrics
        if self._is_first:
            seen = f"{metadata.progress.samples:,} samples"
            say(f"resuming from {name}, after {seen}, with {trainer.workers} workers")
            if is_evaluated:
                # The run may have ended between the checkpoint and its entry.
                self._enter_epoch(metadata.progress.epochs, metadata.metrics)
                self._enter_models()
        is_between = metadata.progress.epochs > 0 and metadata.progress.epoch_steps == 0
        return {} if is_evaluated or not is_between else metadata.metrics

    def request(self) -> Request:
        """What this rank asks of all; cheap enough to be called after every step."""
        now = self._clock()
        if not self._is_first or now - self._looked_at < _LOOK_EVERY_S:
            return Request.NONE
        self._looked_at, request = now, Request.NONE
        if (self._folder / STOP_NAME).exists():
            request |= Request.STOP
        minutes = self._trainer.settings.ray.checkpoint_minutes
        if minutes and now - self._kept_at >= 60 * minutes:
            request |= Request.CHECKPOINT
            self._kept_at = now
        if self._asks and now - self._asked_at >= self._asks:
            request |= Request.ASK
            self._asked_at = now
        return request

    def save(self) -> None:
        """Write a checkpoint within an epoch; every rank must call it."""
        self._save(self._trainer.progress, {}, {})

    def save_trained(self, metrics: dict[str, float]) -> None:
        """Write a checkpoint of an epoch's steps, with the metrics of its training; every rank must call it."""
        progress, steps = self._trainer.progress, self._trainer.steps_per_epoch
        self._save(Progress(epochs=progress.epochs - 1, epoch_steps=steps), metrics, {})

    def save_evaluated(
        self, metrics: dict[str, float], extras: Mapping[str, bytes], picture: bytes
    ) -> None:
        """Write an epoch's checkpoint with all its metrics and `extras`, further files by name; every rank must call it.

        Then enter the metrics in the journal, with a PNG of predictions.
        """
        epoch = self._trainer.progress.epochs
        if self._is_first:
            # First, so that it is there whenever its epoch is entered, however the run ends.
            self._draw(overlay_path(self._folder, epoch), picture)
            self._pending.append(partial(self._enter_epoch, epoch, metrics))
        self._save(self._trainer.progress, metrics, extras)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Enter what people should know of the run in the journal, with the next checkpoint."""
        if self._is_first:
            self._pending.append(partial(self._journal.tags, tags))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until the last checkpoint is on the disk. Raises StorageError if it can't be, unless something else failed."""
        failure = self._manager.close() if self._is_first else None
        if failure is not None and kind is None:
            raise failure

    def _save(
        self, position: Progress, metrics: dict[str, float], extras: Mapping[str, bytes]
    ) -> None:
        snapshot = self._trainer.snapshot(metrics, extras)
        self._kept_at = self._clock()
        if self._is_first:
            self._heed(self._manager.add(checkpoint_name(position), snapshot, self._enter))

    def _heed(self, failure: StorageError | None) -> None:
        """Say that a checkpoint was not written; the run goes on without it, but not without any."""
        if failure is None:
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= _FAILURES:
            raise failure
        say(f"{failure}; training goes on, and tries again at the next checkpoint")

    def _draw(self, path: Path, picture: bytes) -> None:
        """Write a picture; one that can't be written waits for the next checkpoint, like its epoch's entry."""
        try:
            _write(path, picture)
        except OSError as error:
            say(f"{path}: not written: {error}; tried again after the next checkpoint")
            self._pending.append(partial(_write, path, picture))

    def _enter(self) -> None:
        """Bring the journal up to date. Raises OSError; then the rest waits for the next checkpoint."""
        while self._pending:
            self._pending[0]()
            self._pending.pop(0)
        self._enter_models()

    def _enter_models(self) -> None:
        models, metric = self._trainer.settings.tracking.models, self._trainer.measure.metric_name
        enter_models(self._journal, self._folder, metric, models)

    def _enter_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Enter an epoch, unless it is there; its metrics last, so that they stand for the picture too."""
        if not self._journal.has_metrics(epoch):
            picture = overlay_path(self._folder, epoch)
            if picture.exists() and not self._journal.has_file(picture):
                self._journal.file(picture, OVERLAYS, epoch)
            self._journal.metrics(metrics, epoch)


def _write(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    try:
        path.write_bytes(content)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def enter_models(journal: Journal, folder: Path, metric: str, most: int) -> None:
    """Bring the journal's models up to date: the `most` best checkpoints in `folder` by `metric`, none twice.

    What is registered under a name stays. Call it before a checkpoint is
    removed, which the journal must not promise any more. Raises OSError.
    """
    wanted = {path.name: (path, metadata) for path, metadata in ranked(folder, metric)[:most]}
    entered = journal.models()
    for name in entered.keys() - wanted.keys():
        if not entered[name]:
            journal.forget_model(name)
    for name, (path, metadata) in wanted.items():
        if name not in entered:
            journal.model(path, metadata.progress.epochs)
