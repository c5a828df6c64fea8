"""What the ranks of a run know of one another when nothing moves: a small file of each, on the disk that all see."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

# Folder of the heartbeats, in a run's folder.
_FOLDER = "heartbeats"


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """Where a rank stands, as it says itself: `stage` and `done` are its marker's, `still_s` is without progress since."""

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
    """What a rank has said last in the run's folder, unless it has ended in order."""
    found = _read(_path(folder, rank))
    return found and found[0]


class Heartbeats:
    """The files of one start of a run, by which its ranks tell it from others; those of other starts don't count."""

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
        """Heartbeats of all ranks that are heard of, each with the seconds that it is older than `rank`'s.

        Ages are between the files' times, so that hosts need not agree on the time.
        """
        found = {}
        for other in range(workers):
            heard = _read(_path(self._folder, other))
            if heard and heard[0].start == self._start:
                found[other] = heard
        newest = found[rank][1] if rank in found else 0.0
        return {other: (beat, newest - time) for other, (beat, time) in found.items()}

    def remove(self, rank: int) -> None:
        """Remove a rank's heartbeat, and the folder with the last one."""
        path = _path(self._folder, rank)
        path.unlink(missing_ok=True)
        # Others are still there, or have removed it.
        with suppress(OSError):
            path.parent.rmdir()


def _read(path: Path) -> tuple[Heartbeat, float] | None:
    """A heartbeat with its file's time; none if it can't be read, is cut off, or of another version's making."""
    # Whoever asks is about a failure already, and then knows less of one rank.
    with suppress(OSError, ValueError, TypeError):
        return Heartbeat(**json.loads(path.read_text())), path.stat().st_mtime
    return None


def _path(folder: Path, rank: int) -> Path:
    return folder / _FOLDER / f"rank_{rank:05d}.json"


def stuck(
    beats: Mapping[int, tuple[Heartbeat, float]], workers: int, silent_s: float
) -> dict[int, str]:
    """The ranks that the others wait for, each with what is wrong with it; none where nobody stands out.

    A rank that says nothing for `silent_s` is stopped as a whole; where all
    speak, those that have come less far than others are stuck.
    """
    silent = {
        rank: f"{beat} has said nothing for {age:.0f} s, since {beat.what}"
        for rank, (beat, age) in beats.items()
        if age > silent_s
    }
    # Past the first stage all have been there, and who is missing has ended.
    if not any(beat.stage for beat, _ in beats.values()):
        silent |= {
            rank: f"rank {rank} has not been heard of"
            for rank in range(workers)
            if rank not in beats
        }
    if silent or not beats:
        return silent
    places = {rank: (beat.stage, beat.done) for rank, (beat, _) in beats.items()}
    lowest = min(places.values())
    return {
        rank: f"{beats[rank][0]} is behind the others, still for {beats[rank][0].still_s:.0f} s since {beats[rank][0].what}"
        for rank, place in places.items()
        if place == lowest != max(places.values())
    }
