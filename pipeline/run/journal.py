"""A run's journal: all that is to be recorded of it, on disk first. What MLflow shows is a view of it.

One line of JSON an entry, numbered from 1; lines are only ever added.
"""

import json
import math
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.io.redaction import redacted

JOURNAL_NAME = "journal.jsonl"
# The journal of the machine beside it, to which another process adds.
SYSTEM_NAME = "system.jsonl"

Kind = Literal[
    "run", "metrics", "tags", "end", "file", "folder", "text", "model", "forget_model", "register"
]
End = Literal["FINISHED", "FAILED", "KILLED"]
History = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a run is to MLflow: where it is recorded, its name, and what is known at its start."""

    uri: str
    experiment: str
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    artifacts: Path
    """Where a new experiment keeps its files, unless a server decides."""
    parent: str = ""
    """Name of the run that this one is nested under; empty: none."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the journal: its number, its time in milliseconds since 1970, and what is recorded."""

    seq: int
    time_ms: int
    kind: Kind
    content: dict[str, Any]


class Journal:
    """The journal of the run in `folder`, or another one there by its name.

    Any number of processes may read it while one adds to it; a thread needs an
    instance of its own. An entry is on the disk when the method that adds it
    returns. A torn last line, of a process that was killed, counts as never
    written. Every method raises ValueError naming file and line where the
    journal is damaged in any other way, and OSError where the disk refuses.
    """

    def __init__(self, folder: Path, name: str = JOURNAL_NAME) -> None:
        self.root = folder.absolute()
        self.path = self.root / name
        self._entries: list[Entry] = []
        self._end = 0  # bytes of complete lines that have been read
        self._is_torn = False
        self._known: set[tuple[int, frozenset[str]]] = set()

    def run(self, spec: RunSpec) -> None:
        """Record that the run starts or goes on. Passwords within URLs are left out."""
        self._append(
            "run",
            {
                "uri": redacted(spec.uri),
                "experiment": spec.experiment,
                "name": spec.name,
                "params": {key: redacted(str(value)) for key, value in spec.params.items()},
                "tags": {key: redacted(value) for key, value in spec.tags.items()},
                "artifacts": str(spec.artifacts),
                "parent": spec.parent,
            },
        )

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics at a step, unless the same names have been recorded at it already.

        A run that was killed takes the steps after its last checkpoint again.
        Raises ValueError naming a value that is not finite.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"metric {name!r} at step {step} must be finite, got {value}")
        self._read_on()
        if (step, frozenset(values)) not in self._known:
            self._append(
                "metrics",
                {"step": step, "values": {name: float(value) for name, value in values.items()}},
            )

    def file(self, path: Path, folder: str, step: int | None = None) -> None:
        """Record a file, to be kept in `folder` of the run's artifacts; it must stay until it is delivered.

        One of a step is a picture, which is also shown beside those of other runs.
        """
        of_step = {} if step is None else {"step": step}
        self._append("file", {"path": self._place(path), "folder": folder} | of_step)

    def folder(self, path: Path, at: str) -> None:
        """Record a folder's files, to be kept under `at`; they must stay until they are delivered."""
        self._append("folder", {"path": self._place(path), "at": at})

    def text(self, text: str, path: str) -> None:
        """Record text, to be kept as the file `path` of the run's artifacts."""
        self._append("text", {"text": text, "path": path})

    def model(self, path: Path, step: int) -> None:
        """Record a checkpoint's folder, to be kept as a model with the metrics of that step; it must stay until it is delivered or forgotten."""
        self._append("model", {"path": self._place(path), "name": path.name, "step": step})

    def forget_model(self, name: str) -> None:
        """Record that the model of a checkpoint is to be removed, wherever it was kept."""
        self._append("forget_model", {"name": name})

    def register(
        self, name: str, registered: str, metric: str, value: float, checksum: str
    ) -> None:
        """Record that the model of a checkpoint is to be a version of the registered model `registered`.

        `value` is its `metric` on the validation people whose checksum is given.
        """
        content = {"name": name, "as": registered, "metric": metric, "value": value}
        self._append("register", content | {"checksum": checksum})

    def models(self) -> dict[str, bool]:
        """Models that are recorded and not forgotten since, by name, each with whether it is to be registered."""
        found: dict[str, bool] = {}
        for entry in self.entries():
            if entry.kind == "model":
                found[entry.content["name"]] = False
            elif entry.kind == "forget_model":
                found.pop(entry.content["name"], None)
            elif entry.kind == "register":
                found[entry.content["name"]] = True
        return found

    def points_of(self, step: int) -> Sequence[tuple[str, float, int]]:
        """Name, value and time in milliseconds of every metric that is recorded at a step."""
        return [
            (name, value, entry.time_ms)
            for entry in self.entries()
            if entry.kind == "metrics" and entry.content["step"] == step
            for name, value in entry.content["values"].items()
        ]

    def tags(self, tags: Mapping[str, str]) -> None:
        """Record tags; the last value of each counts."""
        self._append("tags", {"tags": {key: redacted(value) for key, value in tags.items()}})

    def end(self, status: End) -> None:
        """Record how the run ended."""
        self._append("end", {"status": status})

    def entries(self, after: int = 0) -> Sequence[Entry]:
        """All entries whose number is above `after`, in order."""
        self._read_on()
        return self._entries[after:]

    def history(self, names: Collection[str]) -> History:
        """(step, value) by metric in the order of steps; of several values at a step the last counts."""
        found: dict[str, dict[int, float]] = {name: {} for name in names}
        for entry in self.entries():
            if entry.kind == "metrics":
                for name in found.keys() & entry.content["values"].keys():
                    found[name][entry.content["step"]] = entry.content["values"][name]
        return {name: sorted(by_step.items()) for name, by_step in found.items()}

    def has_metrics(self, step: int) -> bool:
        """Whether any metrics of a step are recorded."""
        self._read_on()
        return any(known == step for known, _ in self._known)

    def has_file(self, path: Path) -> bool:
        """Whether a file is recorded."""
        place = self._place(path)
        return any(e.kind == "file" and e.content["path"] == place for e in self.entries())

    def path_of(self, entry: Entry) -> Path:
        """Where the file or folder of an entry lies."""
        return self.root / entry.content["path"]

    def _place(self, path: Path) -> str:
        """A path as it is recorded: relative within the run's folder, so that the folder may move."""
        path = path.absolute()
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def _append(self, kind: Kind, content: dict[str, Any]) -> None:
        self._read_on()
        is_new = not self._end
        # Clocks are set back, and differ between machines: the order of entries stays that of times.
        last_ms = self._entries[-1].time_ms if self._entries else 0
        head = {
            "seq": len(self._entries) + 1,
            "time_ms": max(time.time_ns() // 1_000_000, last_ms),
            "kind": kind,
        }
        line = json.dumps(head | content, allow_nan=False).encode() + b"\n"
        self.root.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if self._is_torn:
                file.truncate(self._end)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            _keep_names(self.root)
        self._read_on()

    def _read_on(self) -> None:
        """Take in the complete lines that have been added since the last time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._end)
            added = file.read()
        complete, newline, torn = added.rpartition(b"\n")
        self._is_torn = bool(torn)
        for line in complete.split(b"\n") if newline else ():
            entry = self._entry(line, len(self._entries) + 1)
            self._entries.append(entry)
            self._end += len(line) + 1
            if entry.kind == "metrics":
                self._known.add((entry.content["step"], frozenset(entry.content["values"])))

    def _entry(self, line: bytes, number: int) -> Entry:
        try:
            content = json.loads(line)
            seq, time_ms, kind = (content.pop(name) for name in ("seq", "time_ms", "kind"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{self.path}: line {number} is damaged: {error}") from error
        if seq != number:
            raise ValueError(f"{self.path}: line {number} must have seq {number}, got {seq!r:.80}")
        return Entry(seq=seq, time_ms=time_ms, kind=kind, content=content)


def _keep_names(folder: Path) -> None:
    """Have the disk keep the names in a folder, so that a new file survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
