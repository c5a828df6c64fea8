"""Heartbeats of a run's ranks: one small file each, on the disk that all of them see.

Each generation of workers has a folder of its own, so that successors share no file.
"""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.run.ownership import newest_claim

# Folder of the heartbeats, in a run's folder.
_FOLDER = "heartbeats"


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """A rank's progress by its marker: `stage`, `done`, `what`, unchanged for `still_s` seconds."""

    rank: int
    host: str
    pid: int
    stage: int
    done: int
    what: str
    still_s: float

    def __str__(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


def last_heard(folder: Path, rank: int) -> Heartbeat | None:
    """Return a rank's last heartbeat in the run's folder; None if the rank ended normally."""
    newest = max((folder / _FOLDER).glob("*"), default=folder)
    found = _read(_path(newest, rank))
    return found and found[0]


def remove_heartbeats(folder: Path, before: int) -> None:
    """Remove the heartbeats of earlier generations from the run's folder."""
    for old in (folder / _FOLDER).glob("*"):
        if old.name < _name(before):
            shutil.rmtree(old, ignore_errors=True)


class Heartbeats:
    """The heartbeat files of one generation of a run's workers."""

    def __init__(self, folder: Path, generation: int) -> None:
        self._folder = folder / _FOLDER / _name(generation)
        self._run, self._generation = folder, generation

    def write(self, beat: Heartbeat) -> None:
        """Replace a rank's heartbeat, unless the run has newer workers. Raises OSError."""
        newest = newest_claim(self._run)
        if newest is not None and newest.generation > self._generation:
            return
        path = _path(self._folder, beat.rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".writing")
        aside.write_text(json.dumps(asdict(beat)))
        aside.rename(path)

    def read(self, rank: int, workers: int) -> dict[int, tuple[Heartbeat, float]]:
        """Return the heartbeats by rank, each with its age in seconds relative to `rank`'s.

        Ages are differences of file times, so hosts need not agree on the time.
        """
        found = {}
        for other in range(workers):
            entry = _read(_path(self._folder, other))
            if entry:
                found[other] = entry
        newest = found[rank][1] if rank in found else 0.0
        return {other: (beat, newest - time) for other, (beat, time) in found.items()}

    def remove(self, rank: int) -> None:
        """Remove a rank's heartbeat, and the folders with the last one."""
        path = _path(self._folder, rank)
        path.unlink(missing_ok=True)
        # Other ranks still have files there, or have removed the folder.
        with suppress(OSError):
            path.parent.rmdir()
            path.parent.parent.rmdir()


def _read(path: Path) -> tuple[Heartbeat, float] | None:
    """Read a heartbeat with its file's time; None if missing, cut off or of another version."""
    # The callers report a failure: without the file they only know less about one rank.
    with suppress(OSError, ValueError, TypeError):
        return Heartbeat(**json.loads(path.read_text())), path.stat().st_mtime
    return None


def _name(generation: int) -> str:
    return f"{generation:08d}"


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank:05d}.json"


def stuck(
    beats: Mapping[int, tuple[Heartbeat, float]], workers: int, silent_s: float
) -> dict[int, str]:
    """Return the ranks that the others wait for, each with a sentence on it; empty if none differs.

    A rank without a heartbeat for `silent_s` seconds is a stopped process. If all have heartbeats,
    the ranks that are behind the others are stuck.
    """
    silent = {
        rank: f"{beat} has had no heartbeat for {age:.0f} s, since {beat.what}"
        for rank, (beat, age) in beats.items()
        if age > silent_s
    }
    # All ranks have reached the first stage before any is in a later one: a rank that is missing
    # then has ended.
    if not any(beat.stage for beat, _ in beats.values()):
        absent = set(range(workers)) - set(beats)
        silent |= {rank: f"rank {rank} has had no heartbeat yet" for rank in sorted(absent)}
    if silent or not beats:
        return silent
    progress = {rank: (beat.stage, beat.done) for rank, (beat, _) in beats.items()}
    lowest = min(progress.values())
    return {
        rank: f"{beat} is behind the others, still for {beat.still_s:.0f} s since {beat.what}"
        for rank, (beat, _) in beats.items()
        if progress[rank] == lowest != max(progress.values())
    }
