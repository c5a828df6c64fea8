"""The checkpoints of a run: written aside and renamed, the newest and the best kept, the newest sound one found."""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from pipeline.run.checkpoint import Snapshot, check_sound, write_checkpoint
from pipeline.run.metadata import METADATA_NAME, CheckpointMetadata, Progress, read_metadata

# Folder of a run's files in MLflow that has its best checkpoint.
BEST_CHECKPOINT = "best_checkpoint"
# The thread that writes a checkpoint, and then enters in the journal what waited for it.
CHECKPOINT_THREAD = "checkpoint"
# A name that begins so is of a checkpoint that was never finished.
_ASIDE = ".writing-"


def checkpoint_name(progress: Progress) -> str:
    """Folder name of a checkpoint: `epoch_0003`, or `epoch_0003+00120` with 120 steps of the next epoch.

    Names in alphabetical order are in the order of training.
    """
    within = f"+{progress.epoch_steps:05d}" if progress.epoch_steps else ""
    return f"epoch_{progress.epochs:04d}{within}"


def checkpoints(folder: Path) -> list[Path]:
    """A run's checkpoints, the oldest first; what was never finished does not count."""
    return sorted(path.parent for path in folder.glob(f"epoch_*/{METADATA_NAME}"))


def newest_sound(
    folder: Path, refused: Callable[[str], None]
) -> tuple[Path, CheckpointMetadata] | None:
    """The newest checkpoint of a run that is whole, if it has any; tell `refused` of newer ones that are not.

    Raises ValueError if there are some and none is whole: to train anew over them is not ours to decide.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return path, check_sound(path)
        except ValueError as error:
            refused(f"checkpoint {path.name} can't be used: {error}")
    if found:
        raise ValueError(
            f"{folder}: none of its {len(found)} checkpoints is sound; give another ray.name, or move "
            "them away to train anew"
        )
    return None


def best(folder: Path, metric: str) -> tuple[Path, CheckpointMetadata] | None:
    """The checkpoint with the highest `metric`, the earliest of equals; None if `ranked` has none."""
    return next(iter(ranked(folder, metric)), None)


def ranked(folder: Path, metric: str) -> list[tuple[Path, CheckpointMetadata]]:
    """Checkpoints from the highest `metric` down, the earlier of equals first; those without it, or damaged, don't count."""
    scored = []
    for path in checkpoints(folder):
        # What a damaged one is worth can't be known; `newest_sound` names it.
        with suppress(ValueError):
            metadata = read_metadata(path)
            if metric in metadata.metrics:
                scored.append((path, metadata))
    return sorted(scored, key=lambda found: -found[1].metrics[metric])


class StorageError(OSError):
    """A checkpoint could not be written."""


class CheckpointManager:
    """Writes a run's checkpoints on a thread of its own, one at a time, and removes those no longer wanted.

    The `keep` newest stay, without those within an epoch that is complete, and
    the `keep_best` best by `metric`. A checkpoint that can't be
    written, as on a full disk, takes nothing along: those before it stay, and
    `add` and `close` return what went wrong.
    """

    def __init__(self, folder: Path, keep: int, metric: str, keep_best: int = 1) -> None:
        self._folder, self._keep, self._metric = folder, keep, metric
        self._keep_best = keep_best
        self._thread: Thread | None = None
        self._failure: StorageError | None = None
        self._error: Exception | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(left)

    def add(self, name: str, snapshot: Snapshot, after: Callable[[], None]) -> StorageError | None:
        """Begin to write a checkpoint; `after` runs, on the thread, once it is on the disk.

        Waits for the one before, and returns what kept that from being written.
        """
        failure = self.close()
        # Not a daemon: a process that ends in order finishes its checkpoint first.
        self._thread = Thread(
            target=self._write, args=(name, snapshot, after), name=CHECKPOINT_THREAD, daemon=False
        )
        self._thread.start()
        return failure

    def close(self) -> StorageError | None:
        """Wait for the last checkpoint; return what kept it from being written, if anything did.

        Raises what has gone wrong on the thread beside that.
        """
        if self._thread is not None:
            self._thread.join()
        failure, error = self._failure, self._error
        self._thread = self._failure = self._error = None
        if error is not None:
            raise error
        return failure

    def _write(self, name: str, snapshot: Snapshot, after: Callable[[], None]) -> None:
        what = "not written"
        try:
            aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self._folder))
            try:
                write_checkpoint(aside, snapshot)
                self._rename(aside, self._folder / name)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            what = "written, but not entered in the journal"
            after()
            what = "written, but older ones can't be removed"
            self._remove_unwanted()
        except OSError as error:
            self._failure = StorageError(f"{self._folder / name}: {what}{self._free()}: {error}")
        except Exception as error:
            # Nobody looks at what a thread raises.
            self._error = error

    def _free(self) -> str:
        """How much room there is, where the folder can still be asked."""
        try:
            return f", with {shutil.disk_usage(self._folder).free / 2**20:,.1f} MiB free there"
        except OSError:
            return ""

    def _remove_unwanted(self) -> None:
        found = checkpoints(self._folder)
        whole = [path for path in found if "+" not in path.name]
        # Those within an epoch have served when it is complete.
        newest = [path for path in found if path in whole or not whole or path > whole[-1]]
        chosen = ranked(self._folder, self._metric)[: self._keep_best]
        kept = newest[-self._keep :] + [path for path, _ in chosen]
        for path in found:
            if path not in kept:
                # Its record first: half of a checkpoint must not count as one.
                (path / METADATA_NAME).unlink()
                shutil.rmtree(path)

    def _rename(self, aside: Path, final: Path) -> None:
        """Give a finished checkpoint its name; one that has it already, from before a restart, makes way."""
        # Made for its owner alone, unlike what else lies in the folder.
        for path in (aside, *aside.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if final.exists():
            old = final.rename(Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self._folder)) / final.name)
            aside.rename(final)
            shutil.rmtree(old.parent)
        else:
            aside.rename(final)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
