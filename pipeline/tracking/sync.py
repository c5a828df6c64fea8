"""Sends a run's journal to MLflow: in order, without loss or duplicates, whenever MLflow answers.

The position is written after MLflow has confirmed an entry, so a process that dies in between sends
the entry again. That changes nothing: runs are found by name, metrics are keyed by all their
fields, tags and files replace themselves.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.io.console import say
from pipeline.io.inside import checked_name
from pipeline.io.redaction import redacted
from pipeline.run.journal import SYSTEM_NAME, Entry, Journal
from pipeline.run.ownership import Writer
from pipeline.settings import TrackingSettings
from pipeline.tracking.artifacts import log_file, log_folder, log_image, log_text
from pipeline.tracking.client import AwayError, DoubtfulError, RefusedError, reach, with_uri
from pipeline.tracking.models import forget_model, log_model
from pipeline.tracking.registry import register
from pipeline.tracking.runs import (
    NAME_TAG,
    Point,
    Run,
    end_run,
    find_or_create_run,
    log_points,
    set_tags,
    start_run,
    state_of,
)
from pipeline.tracking.sync_state import (
    Backlog,
    SyncPosition,
    count_refusals,
    forget_refusals,
    note_refusal,
    read_position,
    write_position,
)
from pipeline.tracking.views import keep_view

# A server that is away must be an error within ten seconds.
_REACH_S = 8.0
_POINTS_PER_REQUEST = 1000
# Seconds before each retry of what MLflow may have refused by mistake.
_RETRIES_S = (1.0, 3.0)
# The field of an artifact's entry that has its place in MLflow.
_PLACES = {"file": "folder", "folder": "at", "text": "path", "model": "name"}
ARTIFACT_KINDS = ("file", "folder", "text", "model", "forget_model", "register")


class _GoneError(AwayError):
    """MLflow no longer knows the run."""


def deliver(folder: Path, uri: str, writer: Writer | None = None) -> None:
    """Send MLflow at `uri` what it lacks of the journal in `folder`, as `JournalSync.deliver`."""
    JournalSync(folder, uri, writer).deliver()


def deliver_start(folder: Path, tracking: TrackingSettings, writer: Writer | None = None) -> None:
    """Send the start of the run in `folder`, if MLflow answers, but none of its artifacts.

    Raises AwayError if it does not and tracking.required is set.
    """
    try:
        JournalSync(folder, tracking.uri, writer).deliver(artifacts=False)
    except AwayError as error:
        if tracking.required:
            raise
        say(f"{error}; tracking.required is off: training starts, and the upload is retried")


class JournalSync:
    """The sync of the journals in `folder` with MLflow at `uri`.

    `sent` counts the entries by kind that MLflow has accepted as a whole. Raises ValueError if a
    file is damaged, and in place of a request SupersededError once another start than `writer`'s
    owns the run.
    """

    def __init__(self, folder: Path, uri: str, writer: Writer | None = None) -> None:
        self._journal = Journal(folder, writer=writer)
        self._system = Journal(folder, SYSTEM_NAME)
        self._folder, self._uri = folder, uri
        self._position = read_position(folder, uri)
        self.sent: Counter[str] = Counter()
        self._refused: set[int] = set()

    def deliver(self, *, artifacts: bool = True) -> None:
        """Act as `send`, but raise AwayError within ten seconds if a server does not answer."""
        reach(self._uri, _REACH_S)
        self.send(artifacts=artifacts)

    def send(self, *, artifacts: bool = True) -> None:
        """Send all entries that MLflow lacks, artifacts last, since other entries must not wait.

        A refused entry is printed, added to undeliverable.jsonl and skipped, except the start of
        the run. Raises AwayError if MLflow does not accept an entry now.
        """
        try:
            self._send_all(artifacts)
        except _GoneError:
            # The database is another one, or the run was removed from it. Send everything again.
            self._position = SyncPosition(uri=redacted(self._uri))
            self._send_all(artifacts)

    def end_ahead(self) -> None:
        """Send the run's end ahead of what waits, if its start was sent; it is sent again later."""
        ends = [entry for entry in self._journal.entries() if entry.kind == "end"]
        if self._position.run_id and ends:
            self._journal.check()
            send_entry(self._run(), self._journal, ends[-1])

    def backlog(self, reason: str = "") -> Backlog:
        """Return what MLflow lacks, with a reason if there is one."""
        seq, later = self._position.seq, self._position.later
        pending = [*self._journal.entries(seq), *map(self._entry, later)]
        waiting = Counter[str](entry.kind for entry in pending)
        if system := self._system.entries(self._position.system):
            waiting["system"] = len(system)
        refused = count_refusals(self._folder) if seq else 0
        return Backlog(folder=self._folder, waiting=waiting, refused=refused, reason=reason)

    def _send_all(self, artifacts: bool) -> None:
        if not self._position.seq:
            forget_refusals(self._folder)
        while entries := self._journal.entries(self._position.seq):
            if entries[0].kind == "run":
                self._start_run(entries[0])
            elif batch := _batch(entries):
                self._send_points(_points(batch))
                later = [entry.seq for entry in batch if entry.kind in ARTIFACT_KINDS]
                self._advance(batch, later=(*self._position.later, *later))
            else:
                self._send_entry(entries[0])
                self._advance(entries[:1])
        while batch := _batch(self._system.entries(self._position.system)):
            self._send_points(_points(batch))
            self.sent["system"] += len(batch)
            self._write(replace(self._position, system=batch[-1].seq))
        if artifacts:
            self._send_artifacts()

    def _start_run(self, entry: Entry) -> None:
        content = entry.content
        self._journal.check()
        place = self._uri, content["experiment"]
        new: dict[str, Any] = {"artifacts": Path(content["artifacts"]), "time_ms": entry.time_ms}
        try:
            parent = content["parent"] and find_or_create_run(*place, content["parent"], **new)
            run = start_run(
                *place,
                self._name(content["name"]),
                params=content["params"],
                tags=content["tags"],
                datasets=content.get("datasets", ()),
                parent=parent or None,
                **new,
            )
        except RefusedError as error:
            # Without the run nothing of it can be recorded: a person has to decide.
            raise AwayError(str(error), error.summary) from error
        if scores := content.get("scores"):
            try:
                keep_view(run, scores, entry.time_ms)
            except RefusedError as error:
                say(f"note: the experiment has no saved view: {error}")
        if self._position.run_id not in ("", run.run_id):
            raise _GoneError(f"run {self._position.run_id} has been replaced by {run.run_id}")
        self._advance([entry], experiment_id=run.experiment_id, run_id=run.run_id)

    def _name(self, begun: str) -> str:
        """Return the name under which a run that `begun` has is to be found or created.

        One that was renamed since must not be sent again to another that has got its name.
        """
        if self._position.run_id:
            return begun
        tags = [entry.content["tags"] for entry in self._journal.entries() if entry.kind == "tags"]
        return next((held[NAME_TAG] for held in reversed(tags) if NAME_TAG in held), begun)

    def _send_points(self, points: Sequence[tuple[int, Point]]) -> None:
        """Log points, each with its entry's number. Halving finds those that MLflow refuses."""
        run = self._run()
        if len(points) == 1:
            [(seq, point)] = points
            self._try(seq, asdict(point), lambda: log_points(run, [point]))
            return
        try:
            for start in range(0, len(points), _POINTS_PER_REQUEST):
                request = points[start : start + _POINTS_PER_REQUEST]
                self._journal.check()
                log_points(run, [point for _, point in request])
        except RefusedError:
            self._send_points(points[: len(points) // 2])
            self._send_points(points[len(points) // 2 :])

    def _send_artifacts(self) -> None:
        failed: AwayError | None = None
        for entry in map(self._entry, self._position.later):
            try:
                self._send_entry(entry)
            except _GoneError:
                raise
            except AwayError as error:
                # The store of artifacts may reject one file. The others must not wait for it.
                reach(self._uri, _REACH_S)
                failed = error
                continue
            self._count([entry])
            later = tuple(seq for seq in self._position.later if seq != entry.seq)
            self._write(replace(self._position, later=later))
        if failed is not None:
            raise failed

    def _send_entry(self, entry: Entry) -> None:
        """Send an entry that holds no metrics."""
        run, reason = self._run(), fault_of(self._journal, entry)
        if reason:
            self._refuse(entry.seq, entry.content, reason)
        else:
            self._try(entry.seq, entry.content, lambda: send_entry(run, self._journal, entry))

    def _try(self, seq: int, content: Mapping[str, Any], action: Callable[[], None]) -> None:
        """Run `action`; record its refusal, unless the state of the run is the cause."""
        for pause_s in (*_RETRIES_S, None):
            self._journal.check()
            try:
                action()
                return
            except RefusedError as error:
                self._check_run()
                if pause_s is None or not isinstance(error, DoubtfulError):
                    self._refuse(seq, content, str(error))
                    return
            time.sleep(pause_s)

    def _check_run(self) -> None:
        run = self._run()
        state, place = state_of(run), f"MLflow at {redacted(self._uri)}"
        if state == "absent":
            raise _GoneError(f"{place} does not know run {run.run_id} any more")
        if state == "deleted":
            restore = with_uri(self._uri, f"mlflow runs restore --run-id {run.run_id}")
            deleted = f"run {run.run_id} was deleted in {place}"
            raise AwayError(f"{deleted}; restore it by: {restore}", deleted)

    def _refuse(self, seq: int, content: Mapping[str, Any], reason: str) -> None:
        self._refused.add(seq)
        note_refusal(self._folder, seq, content, reason)
        say(f"skipped line {seq} of {self._journal.path}: {reason}")

    def _run(self) -> Run:
        position = self._position
        if not position.run_id:
            raise ValueError(f"{self._journal.path}: line 1 must be of kind 'run'")
        return Run(uri=self._uri, experiment_id=position.experiment_id, run_id=position.run_id)

    def _entry(self, seq: int) -> Entry:
        return self._journal.entries(seq - 1)[0]

    def _advance(self, entries: Sequence[Entry], **changes: Any) -> None:
        """Move the position past entries that MLflow has, or that `later` lists."""
        self._count([entry for entry in entries if entry.kind not in ARTIFACT_KINDS])
        self._write(replace(self._position, seq=entries[-1].seq, **changes))

    def _count(self, entries: Sequence[Entry]) -> None:
        self.sent.update(entry.kind for entry in entries if entry.seq not in self._refused)

    def _write(self, position: SyncPosition) -> None:
        self._journal.check()
        write_position(self._folder, position)
        self._position = position


def _batch(entries: Sequence[Entry]) -> list[Entry]:
    """Return the leading metrics that fit in one request, with the artifacts between them."""
    batch: list[Entry] = []
    points = 0
    for entry in entries:
        points += len(entry.content["values"]) if entry.kind == "metrics" else 0
        is_other = entry.kind not in ("metrics", *ARTIFACT_KINDS)
        if is_other or (batch and points > _POINTS_PER_REQUEST):
            break
        batch.append(entry)
    return batch


def _points(entries: Sequence[Entry]) -> list[tuple[int, Point]]:
    """Return the points of the metrics among the entries, each with its entry's number."""
    return [
        (
            entry.seq,
            Point(name=name, value=value, step=entry.content["step"], time_ms=entry.time_ms),
        )
        for entry in entries
        if entry.kind == "metrics"
        for name, value in entry.content["values"].items()
    ]


def fault_of(journal: Journal, entry: Entry) -> str:
    """Return why an artifact's entry can't be sent; empty if it can, or is not wanted any more.

    A journal may come from anywhere: only files in the run's folder are sent.
    """
    if entry.kind not in _PLACES or _is_forgotten(journal, entry):
        return ""
    try:
        if place := entry.content.get(_PLACES[entry.kind]):
            checked_name(place)
        if entry.kind == "text":
            return ""
        path = journal.path_of(entry)
    except FileNotFoundError as error:  # a checkpoint that is being removed
        return f"{error.filename} does not exist any more"
    except ValueError as error:
        return str(error)
    return "" if path.exists() else f"{path} does not exist any more"


def send_entry(run: Run, journal: Journal, entry: Entry) -> None:
    """Send tags, an end or an artifact to MLflow. Raises AwayError or RefusedError."""
    content = entry.content
    match entry.kind:
        case "tags":
            set_tags(run, content["tags"])
        case "end":
            end_run(run, content["status"], entry.time_ms)
        case "file":
            path, folder = journal.path_of(entry), content["folder"]
            log_file(run, path, folder)
            if "step" in content:
                log_image(run, path, folder, content["step"], entry.time_ms)
        case "folder":
            log_folder(run, journal.path_of(entry), content["at"])
        case "text":
            log_text(run, content["text"], content["path"])
        case "model":
            if not _is_forgotten(journal, entry):
                step = content["step"]
                points = [
                    Point(name=name, value=value, step=step, time_ms=time_ms)
                    for name, value, time_ms in journal.points_of(step)
                ]
                log_model(run, journal.path_of(entry), step, points)
        case "forget_model":
            forget_model(run, content["name"])
        case "register":
            measured = content["metric"], content["value"], content["checksum"]
            say(register(run, content["name"], content["as"], *measured))
        case _:
            raise AssertionError(f"entries of kind {entry.kind!r} are sent otherwise")


def _is_forgotten(journal: Journal, entry: Entry) -> bool:
    """Whether a model's entry has been followed by its removal. Its folder may be disappearing."""
    return entry.kind == "model" and entry.content["name"] not in journal.models()
