"""Heartbeats of a run's ranks: one small file each, on the disk that all of them see."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

# Folder of the heartbeats, in a run's folder.
_FOLDER = "heartbeats"


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """A rank's progress by its marker: `stage`, `done`, `what`, unchanged for `still_s` seconds."""

    start: str
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
    found = _read(_path(folder, rank))
    return found and found[0]


class Heartbeats:
    """The heartbeat files of one start of a run. Those of other starts are ignored."""

    def __init__(self, folder: Path, start: str) -> None:
        self._folder, self._start = folder, start

    def write(self, beat: Heartbeat) -> None:
        """Replace a rank's heartbeat. Raises OSError."""
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
            if entry and entry[0].start == self._start:
                found[other] = entry
        newest = found[rank][1] if rank in found else 0.0
        return {other: (beat, newest - time) for other, (beat, time) in found.items()}

    def remove(self, rank: int) -> None:
        """Remove a rank's heartbeat, and the folder with the last one."""
        path = _path(self._folder, rank)
        path.unlink(missing_ok=True)
        # Other ranks still have files there, or have removed the folder.
        with suppress(OSError):
            path.parent.rmdir()


def _read(path: Path) -> tuple[Heartbeat, float] | None:
    """Read a heartbeat with its file's time; None if missing, cut off or of another version."""
    # The callers report a failure: without the file they only know less about one rank.
    with suppress(OSError, ValueError, TypeError):
        return Heartbeat(**json.loads(path.read_text())), path.stat().st_mtime
    return None


def _path(folder: Path, rank: int) -> Path:
    return folder / _FOLDER / f"rank_{rank:05d}.json"


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
