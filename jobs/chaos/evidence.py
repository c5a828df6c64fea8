"""The ranks' traces of their steps, read while they are written."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Run, epoch (from 0) and step (from 1). Run names sort in the order of training.
Position = tuple[str, int, int]
START: Position = ("", 0, 0)


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A process that trains since `begun`; ranks of one `group` train together."""

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
        return (self.rank.run, self.epoch, self.step)


class Evidence:
    """All trace lines of a folder so far; `read_on` adds the new ones."""

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
        """Ranks of the latest group, in order; empty before the first."""
        if not self._rank_of:
            return []
        last = max(self._rank_of.values(), key=lambda rank: rank.begun)
        same = [rank for rank in self._rank_of.values() if rank.group == last.group]
        return sorted(same, key=lambda rank: rank.rank)

    def read_on(self) -> list[Taking]:
        """Read new lines; return the last part of each step that they complete, earliest first."""
        paths = sorted(self._folder.glob("*.jsonl"))
        added = [taking for path in paths for taking in self._new(path)]
        self.takings += added
        return list(self._completed(sorted(added, key=lambda taking: taking.time)))

    def _new(self, path: Path) -> Iterator[Taking]:
        for line in self._lines(path):
            time = line.pop("time")
            if "run" in line:
                self._rank_of[path] = Rank(**line, begun=time)
            else:
                positions = tuple(line.pop("positions"))
                yield Taking(rank=self._rank_of[path], time=time, positions=positions, **line)

    def _lines(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield the complete new lines. The torn last line of a killed process is never one."""
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            complete, newline, _ = file.read().rpartition(b"\n")
        self._read[path] = self._read.get(path, 0) + len(complete) + len(newline)
        yield from map(json.loads, complete.splitlines())

    def _completed(self, added: list[Taking]) -> Iterator[Taking]:
        for taking in added:
            key = (taking.rank.group, taking.position)
            self._parts[key] += 1
            if self._parts[key] == taking.rank.workers:
                self.furthest = max(self.furthest, taking.position)
                yield taking
