"""A run's journal: everything recorded of the run, on disk first. MLflow shows a copy.

One line of JSON per entry, numbered from 1. Lines are only appended. Each has the generation of its
writer, unless that is 0: a line of an older generation than one before it does not count, as its
writer had been stopped between its last look at the claims and the write.
"""

import json
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pipeline.io.inside import check_files_inside, check_whole, path_inside
from pipeline.io.parsing import (
    fields_of,
    items_of,
    number_of,
    parse_json,
    table_of,
    text_of,
    whole_of,
)
from pipeline.io.redaction import redacted
from pipeline.io.text import visible
from pipeline.run.ownership import Writer

JOURNAL_NAME = "journal.jsonl"
# The journal of system metrics beside it, which another process writes.
SYSTEM_NAME = "system.jsonl"

Kind = Literal[
    "run", "metrics", "tags", "end", "file", "folder", "text", "model", "forget_model", "register"
]
End = Literal["FINISHED", "FAILED", "KILLED"]
History = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """A run as MLflow needs it at its start."""

    uri: str
    experiment: str
    name: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    artifacts: Path
    """Artifact folder of a new experiment, unless a server decides."""
    parent: str = ""
    """Name of the run that this one is nested under, if any."""
    scores: Sequence[str] = ()
    """Names of the metrics by which runs are compared, the primary one first."""
    datasets: Sequence[Mapping[str, str]] = ()
    """The data: name, digest, source (shards), people, and context, `training` or `validation`."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the journal: number, time in milliseconds since 1970, kind and content."""

    seq: int
    time_ms: int
    kind: Kind
    content: dict[str, Any]


class Journal:
    """The journal `name` of the run in `folder`.

    Any number of processes may read it while one appends. An instance is not thread-safe. An entry
    is on disk when the method that adds it returns. A torn last line, left by a killed process,
    is ignored. Every method raises ValueError naming file and line if the journal is damaged in
    any other way, and OSError if it can't be read or written. Those that append also raise
    ValueError if the file was removed or cut since it was read, and, with a `writer`,
    SupersededError once another start owns the folder.
    """

    def __init__(
        self, folder: Path, name: str = JOURNAL_NAME, *, writer: Writer | None = None
    ) -> None:
        self.root = folder.absolute()
        self.path = self.root / name
        self._writer = writer
        self._generation = 0  # the highest of the lines read so far
        self._entries: list[Entry] = []
        self._end = 0  # bytes of complete lines read so far
        self._is_torn = False
        self._known: set[tuple[int, frozenset[str]]] = set()

    def check(self) -> int:
        """Return the generation to write with. Raises SupersededError as `Writer.check`."""
        return self._generation if self._writer is None else self._writer.check()

    def run(self, spec: RunSpec) -> None:
        """Record that the run starts or resumes. Passwords in URLs are redacted."""
        shown = {
            "uri": redacted(spec.uri),
            "params": {key: _shown(str(value)) for key, value in spec.params.items()},
            "tags": {key: _shown(value) for key, value in spec.tags.items()},
            "artifacts": str(spec.artifacts),
            "scores": list(spec.scores),
            "datasets": [
                {key: _shown(value) for key, value in dataset.items()} for dataset in spec.datasets
            ],
        }
        self._append("run", vars(spec) | shown)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record metrics at a step, unless the same names are recorded at it already.

        A resumed run repeats the steps after its last checkpoint. Raises ValueError naming a value
        that is not finite.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"metric {name!r} at step {step} must be finite, got {value}")
        self._read_on()
        if (step, frozenset(values)) not in self._known:
            content = {name: float(value) for name, value in values.items()}
            self._append("metrics", {"step": step, "values": content})

    def file(self, path: Path, folder: str, step: int | None = None) -> None:
        """Record a file for `folder` of the run's artifacts. It must stay until it is uploaded.

        A file with a step is a picture, which MLflow also shows beside those of other runs.
        """
        of_step = {} if step is None else {"step": step}
        self._append("file", {"path": self._place(path), "folder": folder} | of_step)

    def folder(self, path: Path, at: str) -> None:
        """Record a folder's files for `at` in the artifacts. They must stay until uploaded."""
        self._append("folder", {"path": self._place(path), "at": at})

    def text(self, text: str, path: str) -> None:
        """Record the text of the file `path` in the run's artifacts."""
        self._append("text", {"text": visible(text), "path": path})

    def model(self, path: Path, step: int) -> None:
        """Record a checkpoint as a model with the metrics of `step`.

        Its folder must stay until it is uploaded or forgotten.
        """
        self._append("model", {"path": self._place(path), "name": path.name, "step": step})

    def forget_model(self, name: str) -> None:
        """Record that a checkpoint's model is to be removed."""
        self._append("forget_model", {"name": name})

    def register(
        self, name: str, registered: str, metric: str, value: float, checksum: str
    ) -> None:
        """Record that a checkpoint's model becomes a version of the model `registered`.

        `value` is its `metric` on the validation data that has this checksum.
        """
        content = {"name": name, "as": registered, "metric": metric, "value": value}
        self._append("register", content | {"checksum": checksum})

    def models(self) -> dict[str, bool]:
        """Return the names of models not forgotten since, each with whether it is registered."""
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
        """Return name, value and time in milliseconds of every metric at a step."""
        return [
            (name, value, entry.time_ms)
            for entry in self.entries()
            if entry.kind == "metrics" and entry.content["step"] == step
            for name, value in entry.content["values"].items()
        ]

    def tags(self, tags: Mapping[str, str]) -> None:
        """Record tags. The last value of each counts."""
        self._append("tags", {"tags": {key: _shown(value) for key, value in tags.items()}})

    def end(self, status: End) -> None:
        """Record how the run ended."""
        self._append("end", {"status": status})

    def entries(self, after: int = 0) -> Sequence[Entry]:
        """Return all entries numbered above `after`, in order."""
        self._read_on()
        return self._entries[after:]

    def history(self, names: Collection[str]) -> History:
        """Return each metric's (step, value) pairs in order; the last value at a step counts."""
        found: dict[str, dict[int, float]] = {name: {} for name in names}
        for entry in self.entries():
            if entry.kind == "metrics":
                for name in found.keys() & entry.content["values"].keys():
                    found[name][entry.content["step"]] = entry.content["values"][name]
        return {name: sorted(by_step.items()) for name, by_step in found.items()}

    def has_metrics(self, step: int) -> bool:
        """Return whether any metrics are recorded at a step."""
        self._read_on()
        return any(known == step for known, _ in self._known)

    def has_file(self, path: Path) -> bool:
        """Return whether a file is recorded."""
        place = self._place(path)
        return any(e.kind == "file" and e.content["path"] == place for e in self.entries())

    def path_of(self, entry: Entry) -> Path:
        """Return the path of an entry's file or folder.

        Raises ValueError if it lies outside the run's folder, or a link in it leads out.
        """
        try:
            path = path_inside(self.root, entry.content.get("path"))
            check_files_inside(self.root, path)
        except ValueError as error:
            raise ValueError(f"{self.path}: line {entry.seq}: {error}") from None
        return path

    def _place(self, path: Path) -> str:
        """Return a path as recorded: relative to the run's folder, so that this may move."""
        return str(path.absolute().relative_to(self.root))

    def _append(self, kind: Kind, content: dict[str, Any]) -> None:
        self._read_on()
        self._check_kept()
        is_new = not self._end
        generation = self.check()
        # Clocks are set back and differ between machines, but times must be in order.
        last_ms = self._entries[-1].time_ms if self._entries else 0
        head = {
            "seq": len(self._entries) + 1,
            "time_ms": max(time.time_ns() // 1_000_000, last_ms),
            "kind": kind,
        }
        if generation:
            head["generation"] = generation
        line = json.dumps(head | content, allow_nan=False).encode() + b"\n"
        self.root.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if self._is_torn:
                self.check()
                file.truncate(self._end)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(self.root)
        self._read_on()

    def _check_kept(self) -> None:
        """Raise ValueError if the file has less than was read of it: lines would be missing."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._end:
            raise ValueError(
                f"{self.path}: removed or cut while this process used it: it has {size} bytes, "
                f"expected at least {self._end}; nothing more is recorded in it"
            )

    def _read_on(self) -> None:
        """Read the complete lines added since the last time."""
        if not self.path.exists():
            return
        check_whole(self.path)
        with self.path.open("rb") as file:
            file.seek(self._end)
            added = file.read()
        complete, newline, torn = added.rpartition(b"\n")
        self._is_torn = bool(torn)
        for line in complete.split(b"\n") if newline else ():
            self._read(line)
            self._end += len(line) + 1

    def _read(self, line: bytes) -> None:
        """Add a line's entry, unless its writer had been superseded."""
        number = len(self._entries) + 1
        try:
            entry, generation = _parsed(line)
        except ValueError as error:
            raise ValueError(f"{self.path}: line {number} is damaged: {error}") from error
        if generation < self._generation:
            return
        if generation > self._generation and entry.seq == number - 1:
            # Both were written at once, the former by a writer that had just been superseded.
            former = self._entries.pop()
            self._known.discard(_key(former))
            number = entry.seq
        if entry.seq != number:
            raise ValueError(f"{self.path}: line {number} must have seq {number}, got {entry.seq}")
        self._generation = generation
        self._entries.append(entry)
        if entry.kind == "metrics":
            self._known.add(_key(entry))


def _shown(text: str) -> str:
    """Return text without secrets, and without what no database takes: bytes that are no UTF-8."""
    return visible(redacted(text))


def _parsed(line: bytes) -> tuple[Entry, int]:
    """Return a line's entry and its writer's generation. Raises ValueError naming the field."""
    content = parse_json(line, "it")
    if not isinstance(content, dict):
        raise ValueError(f"must be an object, got {content!r:.80}")
    kind = content.pop("kind", None)
    generation = whole_of(content.pop("generation", 0), "generation")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ValueError(f"kind must be one of {', '.join(_FIELDS)}, got {kind!r:.80}")
    entry = Entry(
        seq=whole_of(content.pop("seq", None), "seq", 1),
        time_ms=whole_of(content.pop("time_ms", None), "time_ms"),
        kind=kind,  # type: ignore[arg-type]
        content=content,
    )
    for name, read in _FIELDS[kind].items():
        read(content.get(name), name)
    return entry, generation


_texts, _numbers = partial(table_of, read=text_of), partial(table_of, read=number_of)


def _scores(value: Any, where: str) -> None:
    """Check the scores of a run's start, which earlier versions did not record."""
    items_of([] if value is None else value, where, text_of)


def _datasets(value: Any, where: str) -> None:
    """Check the datasets of a run's start, which earlier versions did not record."""
    items_of([] if value is None else value, where, _dataset)


def _dataset(value: Any, where: str) -> None:
    required = ("name", "digest", "source", "people", "context")
    fields_of(_texts(value, where), where, required=required)


# The fields that an entry of each kind must have. `path_of` checks paths.
_FIELDS: Mapping[str, Mapping[str, Callable[[Any, str], object]]] = {
    "run": {
        **dict.fromkeys(("uri", "experiment", "name", "artifacts", "parent"), text_of),
        **dict.fromkeys(("params", "tags"), _texts),
        "scores": _scores,
        "datasets": _datasets,
    },
    "metrics": {"step": whole_of, "values": _numbers},
    "tags": {"tags": _texts},
    "end": {"status": text_of},
    "file": {"folder": text_of},
    "folder": {"at": text_of},
    "text": {"text": text_of, "path": text_of},
    "model": {"name": text_of, "step": whole_of},
    "forget_model": {"name": text_of},
    "register": {
        **dict.fromkeys(("name", "as", "metric", "checksum"), text_of),
        "value": number_of,
    },
}


def _key(entry: Entry) -> tuple[int, frozenset[str]]:
    """Return the step and the names of an entry of metrics."""
    return entry.content.get("step", 0), frozenset(entry.content.get("values", ()))


def sync_folder(folder: Path) -> None:
    """Sync a folder's names to disk, so that a new file survives a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
