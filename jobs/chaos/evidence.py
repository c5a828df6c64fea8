"""What the ranks have witnessed: read from their files while they are written, and after."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Run, epoch (from 0) and step (from 1), in the order of training: runs are named in theirs.
Position = tuple[str, int, int]
START: Position = ("", 0, 0)


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A process that trained, and since when; `group` is that of the ranks it trained with."""

    run: str
    group: str
    rank: int
    workers: int
    pid: int
    begun: float


@dataclass(frozen=True, kw_only=True)
class Taking:
    """A rank's part of a step: the positions of the samples that it trained on."""

    rank: Rank
    epoch: int
    step: int
    time: float
    positions: tuple[int, ...]

    @property
    def position(self) -> Position:
        """Where in the soak's training the step lies."""
        return (self.rank.run, self.epoch, self.step)


@dataclass(frozen=True, kw_only=True)
class TakenStep:
    """A step that every rank of a group has taken, when the last one had, and since when the group trains."""

    position: Position
    time: float
    begun: float


class Evidence:
    """All that is in the folder's files so far; `read_on` takes in what was added."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._rank_of: dict[Path, Rank] = {}
        self._parts: dict[tuple[str, Position], int] = defaultdict(int)
        self.takings: list[Taking] = []
        self.furthest = START
        """The last step in the order of training that all ranks of a group have taken."""

    @property
    def ranks(self) -> list[Rank]:
        """Those of the group that began last, in order; empty before the first."""
        if not self._rank_of:
            return []
        last = max(self._rank_of.values(), key=lambda rank: rank.begun)
        same = [rank for rank in self._rank_of.values() if rank.group == last.group]
        return sorted(same, key=lambda rank: rank.rank)

    def read_on(self) -> list[TakenStep]:
        """Read what was added, and return the steps that are complete since, the earliest first."""
        added = [
            taking for path in sorted(self._folder.glob("*.jsonl")) for taking in self._of(path)
        ]
        self.takings += added
        return sorted(self._completed(added), key=lambda step: step.time)

    def _of(self, path: Path) -> Iterator[Taking]:
        for told in self._lines(path):
            if "run" in told:
                self._rank_of[path] = Rank(
                    run=told["run"],
                    group=told["group"],
                    rank=told["rank"],
                    workers=told["workers"],
                    pid=told["pid"],
                    begun=told["time"],
                )
            else:
                yield Taking(
                    rank=self._rank_of[path],
                    epoch=told["epoch"],
                    step=told["step"],
                    time=told["time"],
                    positions=tuple(told["positions"]),
                )

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        """The complete lines that are new; a torn one, of a process that was killed, never becomes one."""
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            complete, newline, _ = file.read().rpartition(b"\n")
        self._read[path] = self._read.get(path, 0) + len(complete) + len(newline)
        yield from map(json.loads, complete.splitlines())

    def _completed(self, added: list[Taking]) -> Iterator[TakenStep]:
        for taking in sorted(added, key=lambda taking: taking.time):
            key = (taking.rank.group, taking.position)
            self._parts[key] += 1
            if self._parts[key] == taking.rank.workers:
                self.furthest = max(self.furthest, taking.position)
                yield TakenStep(position=taking.position, time=taking.time, begun=taking.rank.begun)
