"""The folder of a prediction: results part by part, so that a restart resumes."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.inference.results import Estimate, Found, Part
from pipeline.inference.sources import MediaFile
from pipeline.io.atomic import atomic_write
from pipeline.io.inside import read_whole
from pipeline.io.parsing import parse_json

# Pictures in a part, which a worker that is killed repeats.
_PHOTOGRAPHS, _FRAMES = 64, 256
JOB, PARTS = "job.json", "parts"


@dataclass(frozen=True)
class Store:
    """The folder of `--out`, which users know by its location. Files are written atomically."""

    folder: Path
    location: str = ""

    def open(self, job: Mapping[str, Any]) -> None:
        """Start or resume `job`, which describes all results in the folder.

        Raises ValueError naming what differs from the folder's job, or if it can't be written.
        """
        path = self.folder / JOB
        try:
            (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _write(path, json.dumps(job, indent=1).encode())
        except OSError as error:
            raise ValueError(f"--out {self.folder}: can't be written: {error.strerror}") from None
        known = _read(path)
        if not isinstance(known, dict):
            raise ValueError(f"{path}: must be an object, got {known!r:.80}; remove this folder")
        where = self.location or self.folder
        for key, value in job.items():
            if known.get(key) != value:
                raise ValueError(
                    f"--out {where}: has results for {key} {known.get(key)!r:.120}, expected "
                    f"{value!r:.120}; give another folder, or remove this one"
                )

    def keep(self, found: Found) -> None:
        """Write a part's results, their further files first."""
        for name, data in found.files.items():
            _write(self.folder / name, data)
        number = max((int(path.stem) for path in self._parts()), default=0) + 1
        _write(self.folder / PARTS / f"{number:06d}.json", json.dumps(found.to_json()).encode())

    def write(self, name: str, data: bytes) -> Path:
        """Write or replace a file of results; return its path."""
        _write(self.folder / name, data)
        return self.folder / name

    def estimates(self, sources: Sequence[MediaFile]) -> list[Estimate]:
        """Return the results of sources that are unchanged, in order of sources and frames."""
        known: dict[tuple[str, int, int], dict[int | None, Estimate]] = defaultdict(dict)
        for path in sorted(self._parts()):
            for estimate in _found(path).estimates:
                key = estimate.file, estimate.size, estimate.modified_ns
                known[key][estimate.frame] = estimate
        found = []
        for source in sources:
            frames = known.get((str(source.path), source.size, source.modified_ns), {})
            found += [frames[frame] for frame in sorted(frames, key=lambda number: number or 0)]
        return found

    def missing(self, sources: Sequence[MediaFile], frames: Mapping[Path, int]) -> list[Part]:
        """Return the parts without results; `frames` has the number of each video's frames."""
        done: dict[str, set[int | None]] = defaultdict(set)
        for estimate in self.estimates(sources):
            done[estimate.file].add(estimate.frame)
        photographs = [s for s in sources if not s.is_video and not done[str(s.path)]]
        parts = [
            Part(sources=tuple(photographs[start : start + _PHOTOGRAPHS]))
            for start in range(0, len(photographs), _PHOTOGRAPHS)
        ]
        for source in sources:
            if source.path in frames:
                numbers = [n for n in range(frames[source.path]) if n not in done[str(source.path)]]
                parts += [Part(sources=(source,), frames=span) for span in spans(numbers)]
        return parts

    def _parts(self) -> list[Path]:
        found = (self.folder / PARTS).glob("*.json")
        return [path for path in found if path.stem.isdecimal()]


def spans(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return runs (start, stop) of consecutive numbers, none longer than a part."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number and number - found[-1][0] < _FRAMES:
            found[-1] = found[-1][0], number + 1
        else:
            found.append((number, number + 1))
    return found


def _found(path: Path) -> Found:
    try:
        return Found.from_json(_read(path), str(path))
    except ValueError as error:
        raise ValueError(f"{error}; without this file its pictures are predicted again") from None


def _read(path: Path) -> Any:
    try:
        text = read_whole(path)
    except OSError as error:
        raise ValueError(f"{path}: not readable: {error.strerror}") from None
    return parse_json(text, str(path))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as aside:
        aside.write_bytes(data)
