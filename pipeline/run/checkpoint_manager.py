"""A run's checkpoints: written on a thread, entered in the journal, removed when superseded."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from pipeline.io.atomic import atomic_write
from pipeline.io.console import say
from pipeline.run.checkpoint import Snapshot, check_sound, write_checkpoint
from pipeline.run.journal import Journal, sync_folder
from pipeline.run.layout import OVERLAYS, StorageError, overlay_path
from pipeline.run.metadata import METADATA_NAME, CheckpointMetadata, Progress, read_metadata
from pipeline.run.ownership import SupersededError, Writer

# Folder of a run's artifacts in MLflow that has its best checkpoint.
BEST_CHECKPOINT = "best_checkpoint"
# Name of the thread that writes a checkpoint.
CHECKPOINT_THREAD = "checkpoint"
# Prefix of folders with unfinished checkpoints.
_ASIDE = ".writing-"
# This many failed checkpoints in a row end the run.
_FAILURES = 3


def checkpoint_name(progress: Progress) -> str:
    """Name a checkpoint: `epoch_0003`, or `epoch_0003+00120` 120 steps into the next epoch.

    Alphabetical order is the order of training.
    """
    within = f"+{progress.epoch_steps:05d}" if progress.epoch_steps else ""
    return f"epoch_{progress.epochs:04d}{within}"


def checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints of a run, oldest first."""
    return sorted(path.parent for path in folder.glob(f"epoch_*/{METADATA_NAME}"))


def newest_sound(
    folder: Path, refused: Callable[[str], None]
) -> tuple[Path, CheckpointMetadata] | None:
    """Return the newest undamaged checkpoint of a run, if it has any; report newer, damaged ones.

    Raises ValueError if checkpoints exist but all are damaged; the user decides whether to start
    over.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return path, check_sound(path)
        except ValueError as error:
            refused(f"checkpoint {path.name} can't be used: {error}")
    if found:
        raise ValueError(
            f"{folder}: all of its {len(found)} checkpoints are damaged; use another ray.name, or "
            "move them away, to start over"
        )
    return None


def awaits_evaluation(folder: Path, metric: str) -> bool:
    """Whether the newest checkpoint has all steps of its epoch, whose evaluation is to come.

    A run then has nothing to save until it has evaluated `metric`.
    """
    newest = checkpoints(folder)[-1:]
    # It may be damaged, or be removed while it is read.
    with suppress(ValueError, OSError):
        metadata = [read_metadata(path) for path in newest]
        return any(
            found.progress.epochs > 0
            and found.progress.epoch_steps == 0
            and metric not in found.metrics
            for found in metadata
        )
    return False


def best(folder: Path, metric: str) -> tuple[Path, CheckpointMetadata] | None:
    """Return the checkpoint with the highest `metric`, the earliest of equals, if there is one."""
    return next(iter(ranked(folder, metric)), None)


def ranked(folder: Path, metric: str) -> list[tuple[Path, CheckpointMetadata]]:
    """Sort checkpoints by `metric`, highest first, then earliest.

    Checkpoints without the metric or with damaged metadata are left out.
    """
    scored = []
    for path in checkpoints(folder):
        # `newest_sound` reports damaged ones.
        with suppress(ValueError):
            metadata = read_metadata(path)
            if metric in metadata.metrics:
                scored.append((path, metadata))
    return sorted(scored, key=lambda found: -found[1].metrics[metric])


def enter_models(journal: Journal, folder: Path, metric: str, most: int) -> None:
    """Update the journal's models to the `most` best checkpoints in `folder` by `metric`.

    Registered models stay. To be called before a checkpoint is removed, because the journal must
    not name a missing one. Raises OSError.
    """
    wanted = {path.name: (path, metadata) for path, metadata in ranked(folder, metric)[:most]}
    entered = journal.models()
    for name in entered.keys() - wanted.keys():
        if not entered[name]:
            journal.forget_model(name)
    for name, (path, metadata) in wanted.items():
        if name not in entered:
            journal.model(path, metadata.progress.epochs)


@dataclass(frozen=True, kw_only=True)
class EpochEntry:
    """An evaluated epoch for the journal: its metrics and a PNG of predictions, if there is one."""

    epoch: int
    metrics: Mapping[str, float]
    picture: bytes = b""


class CheckpointManager:
    """Writes a run's checkpoints one at a time on a thread, and removes superseded ones.

    Journal entries that come with a checkpoint wait until it is on disk, so that a killed run
    never has metrics of an epoch that it will train again.

    The `keep` newest checkpoints stay, except those within a completed epoch, and the best by
    `metric`: as many as `models`, which become models in the journal, but at least one. The best by
    each of the `others`, metrics of the same network cut to fewer stacks, stays too. If a
    checkpoint can't be written, as on a full disk, earlier ones are unharmed. Once another start of
    the run owns its folder, methods raise SupersededError in place of changing it; without a
    `writer`, nothing is checked.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        metric: str,
        models: int = 0,
        *,
        others: Sequence[str] = (),
        writer: Writer | None = None,
    ) -> None:
        self._folder, self._keep, self._metric, self._models = folder, keep, metric, models
        self._others = others
        self._journal = Journal(folder, writer=writer)
        self._waiting: list[EpochEntry | Mapping[str, str]] = []
        self._thread: Thread | None = None
        self._failures = 0
        self._failure: StorageError | None = None
        self._error: Exception | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.check()
        for unfinished in folder.glob(f"{_ASIDE}*"):
            # Its writer may still be at work, cut off from the cluster but not from the disk.
            shutil.rmtree(unfinished, ignore_errors=True)

    def check(self) -> None:
        """Raise SupersededError if another start of the run owns its folder."""
        self._journal.check()

    def add(
        self,
        name: str,
        snapshot: Snapshot,
        *,
        epoch: EpochEntry | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Start to write a checkpoint, to enter `tags` and `epoch` in the journal afterwards.

        Waits for the previous one, and logs its failure. Raises StorageError at the third failure
        in a row.
        """
        failure = self.close()
        self._failures = self._failures + 1 if failure else 0
        if failure is not None:
            if self._failures >= _FAILURES:
                raise failure
            say(f"{failure}; training continues, and retries at the next checkpoint")
        if tags:
            self._waiting.append(tags)
        if epoch is not None:
            self._waiting.append(epoch)
            # Before the checkpoint, so that a run which resumes from it has the picture.
            path = overlay_path(self._folder, epoch.epoch)
            self.check()
            try:
                _write_picture(path, epoch.picture)
            except OSError as error:
                say(f"{path}: not written: {error}; retried after the checkpoint")
        # Not a daemon: a process that exits normally finishes its checkpoint first.
        self._thread = Thread(
            target=self._write, args=(name, snapshot), name=CHECKPOINT_THREAD, daemon=False
        )
        self._thread.start()

    def close(self) -> StorageError | None:
        """Wait for the last checkpoint; return the error if it could not be written.

        Re-raises any other exception of the thread.
        """
        if self._thread is not None:
            self._thread.join()
        failure, error = self._failure, self._error
        self._thread = self._failure = self._error = None
        if error is not None:
            raise error
        return failure

    def enter(self, epoch: EpochEntry) -> None:
        """Enter an epoch whose checkpoint is on disk, unless the journal has it. Raises OSError."""
        self._waiting.append(epoch)
        self._enter_waiting()

    def _write(self, name: str, snapshot: Snapshot) -> None:
        problem = "not written"
        try:
            aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self._folder))
            try:
                write_checkpoint(aside, snapshot)
                self._rename(aside, self._folder / name)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            problem = "written, but not entered in the journal"
            self._enter_waiting()
            problem = "written, but older ones can't be removed"
            self._remove_superseded()
        except OSError as error:
            self._failure = StorageError(f"{self._folder / name}: {problem}{self._free()}: {error}")
        except Exception as error:
            # `close` raises it on the main thread.
            self._error = error

    def _enter_waiting(self) -> None:
        """Bring the journal up to date. After an OSError the rest waits for the next checkpoint."""
        while self._waiting:
            entry = self._waiting[0]
            if isinstance(entry, EpochEntry):
                self._enter_epoch(entry)
            else:
                self._journal.tags(entry)
            self._waiting.pop(0)
        enter_models(self._journal, self._folder, self._metric, self._models)

    def _enter_epoch(self, entry: EpochEntry) -> None:
        """Enter an epoch's picture and then its metrics, unless the journal has the metrics."""
        if self._journal.has_metrics(entry.epoch):
            return
        path = overlay_path(self._folder, entry.epoch)
        if entry.picture and not path.exists():
            self.check()
            _write_picture(path, entry.picture)
        if path.exists() and not self._journal.has_file(path):
            self._journal.file(path, OVERLAYS, entry.epoch)
        self._journal.metrics(entry.metrics, entry.epoch)

    def _free(self) -> str:
        """Return the free space as a clause, if the disk still answers."""
        try:
            return f", with {shutil.disk_usage(self._folder).free / 2**20:,.1f} MiB free there"
        except OSError:
            return ""

    def _remove_superseded(self) -> None:
        found = checkpoints(self._folder)
        whole = [path for path in found if "+" not in path.name]
        # Checkpoints within an epoch are superseded once it is complete.
        newest = [path for path in found if path in whole or not whole or path > whole[-1]]
        chosen = ranked(self._folder, self._metric)[: max(1, self._models)]
        chosen += [found for metric in self._others for found in ranked(self._folder, metric)[:1]]
        kept = newest[-self._keep :] + [path for path, _ in chosen]
        for path in found:
            if path not in kept:
                self.check()
                # Metadata first: a half-removed checkpoint must not count as one.
                (path / METADATA_NAME).unlink()
                shutil.rmtree(path)

    def _rename(self, aside: Path, final: Path) -> None:
        """Give a finished checkpoint its name, replacing one from before a restart."""
        # mkdtemp made it private, unlike everything else in the folder.
        for path in (aside, *aside.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self.check()
        replaced = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self._folder))
        try:
            old = final.rename(replaced / final.name) if final.exists() else None
            aside.rename(final)
            try:
                # A process that was stopped after the check above has renamed too late.
                self.check()
            except SupersededError:
                final.rename(aside)
                if old is not None:
                    old.rename(final)
                raise
        finally:
            shutil.rmtree(replaced)
        sync_folder(self._folder)


def _write_picture(path: Path, picture: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as aside:
        aside.write_bytes(picture)
