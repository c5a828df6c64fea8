"""From a run's journal to MLflow: in order, nothing lost, nothing twice, whenever MLflow is there.

What is delivered is noted only after MLflow has confirmed it, so a process that
dies in between sends it again. That changes nothing: runs are found by name,
metrics are keyed by all that they consist of, tags and files replace themselves.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.io.console import say
from pipeline.io.redaction import redacted
from pipeline.run.journal import SYSTEM_NAME, Entry, Journal
from pipeline.settings import TrackingSettings
from pipeline.tracking.client import AwayError, DoubtfulError, RefusedError, reach
from pipeline.tracking.models import forget_model, log_model
from pipeline.tracking.registry import register
from pipeline.tracking.runs import (
    Point,
    Run,
    end_run,
    find_or_create_run,
    log_file,
    log_folder,
    log_image,
    log_points,
    log_text,
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

# A server that is away must be an error within ten seconds.
_REACH_S = 8.0
_POINTS_AT_ONCE = 1000
# Entries of the machine, each of a few dozen metrics at most.
_SYSTEM_AT_ONCE = 20
# Seconds after which what MLflow may have refused by mistake is sent again.
_ASK_AGAIN_S = (1.0, 3.0)
ARTIFACT_KINDS = ("file", "folder", "text", "model", "forget_model", "register")


class _GoneError(AwayError):
    """MLflow no longer knows the run."""


def deliver(folder: Path, uri: str) -> None:
    """Deliver all of the journal in `folder` that MLflow at `uri` lacks; raises as `JournalSync.deliver`."""
    JournalSync(folder, uri).deliver()


class JournalSync:
    """Delivers the journal in `folder` to MLflow at `uri`. Raises ValueError if a file is damaged."""

    def __init__(self, folder: Path, uri: str) -> None:
        self._journal = Journal(folder)
        self._system = Journal(folder, SYSTEM_NAME)
        self._folder, self._uri = folder, uri
        self._position = read_position(folder, uri)
        self.sent: Counter[str] = Counter()
        self._passed_over: set[int] = set()

    def deliver(self) -> None:
        """Deliver all, as `send`; a server that does not answer at all is an AwayError within ten seconds."""
        reach(self._uri, _REACH_S)
        self.send()

    def send(self) -> None:
        """Deliver all that is not delivered yet: artifacts last, since nothing should wait for them.

        What MLflow refuses is said, noted in undeliverable.jsonl and passed
        over, all but the run itself. Raises AwayError where MLflow does not take
        something now. `sent` counts the entries that it took whole.
        """
        try:
            self._send_all()
        except _GoneError:
            # Another database than before, or the run was removed from it: the journal has it all.
            self._position = SyncPosition(uri=redacted(self._uri))
            self._send_all()

    def left(self, reason: str = "") -> Backlog:
        """What MLflow lacks, and the reason if there is one to give."""
        after, later = self._position.seq, self._position.later
        waiting: Counter[str] = Counter(entry.kind for entry in self._journal.entries(after))
        waiting.update(self._entry(seq).kind for seq in later)
        if machine := self._system.entries(self._position.system):
            waiting["system"] = len(machine)
        refused = count_refusals(self._folder) if after else 0
        return Backlog(folder=self._folder, waiting=waiting, refused=refused, reason=reason)

    def _send_all(self) -> None:
        if not self._position.seq:
            forget_refusals(self._folder)
        while entries := self._journal.entries(self._position.seq):
            if entries[0].kind == "run":
                self._start_run(entries[0])
            elif entries[0].kind in ("metrics", *ARTIFACT_KINDS):
                self._send_metrics(_together(entries))
            else:
                self._send_change(entries[0])
        self._send_system()
        self._send_artifacts()

    def _start_run(self, entry: Entry) -> None:
        told = entry.content
        where = (self._uri, told["experiment"])
        place: dict[str, Any] = {"artifacts": Path(told["artifacts"]), "time_ms": entry.time_ms}
        try:
            parent = told["parent"] and find_or_create_run(*where, told["parent"], **place)
            run = start_run(
                *where,
                told["name"],
                params=told["params"],
                tags=told["tags"],
                parent=parent or None,
                **place,
            )
        except RefusedError as error:
            # Nothing can be recorded of a run that there is not: a person has to look.
            raise AwayError(str(error)) from error
        if self._position.run_id not in ("", run.run_id):
            raise _GoneError(f"run {self._position.run_id} has been replaced by {run.run_id}")
        self._move([entry], experiment_id=run.experiment_id, run_id=run.run_id)

    def _send_metrics(self, entries: Sequence[Entry]) -> None:
        """Log the metrics among the entries, and leave the artifacts for later."""
        points = _points([entry for entry in entries if entry.kind == "metrics"])
        for start in range(0, len(points), _POINTS_AT_ONCE):
            self._send_points(points[start : start + _POINTS_AT_ONCE])
        later = tuple(entry.seq for entry in entries if entry.kind in ARTIFACT_KINDS)
        self._move(entries, later=self._position.later + later)

    def _send_points(self, points: Sequence[tuple[int, Point]]) -> None:
        """Log points; those that MLflow refuses are found by halving."""
        run = self._run()
        if len(points) == 1:
            [(seq, point)] = points
            self._try(seq, asdict(point), lambda: log_points(run, [point]))
            return
        try:
            log_points(run, [point for _, point in points])
        except RefusedError:
            self._send_points(points[: len(points) // 2])
            self._send_points(points[len(points) // 2 :])

    def _send_system(self) -> None:
        """Log the metrics of the machine."""
        while entries := self._system.entries(self._position.system)[:_SYSTEM_AT_ONCE]:
            self._send_points(_points(entries))
            self.sent["system"] += len(entries)
            self._note(replace(self._position, system=entries[-1].seq))

    def _send_change(self, entry: Entry) -> None:
        run, told = self._run(), entry.content
        actions: dict[str, Callable[[], None]] = {
            "tags": lambda: set_tags(run, told["tags"]),
            "end": lambda: end_run(run, told["status"], entry.time_ms),
        }
        self._try(entry.seq, told, actions[entry.kind])
        self._move([entry])

    def _send_artifacts(self) -> None:
        failed: AwayError | None = None
        for seq in self._position.later:
            try:
                self._send_artifact(self._entry(seq))
            except _GoneError:
                raise
            except AwayError as error:
                # One that the store of artifacts does not take must not keep the others here.
                reach(self._uri, _REACH_S)
                failed = error
        if failed is not None:
            raise failed

    def _send_artifact(self, entry: Entry) -> None:
        run, gone = self._run(), missing(self._journal, entry)
        if gone is not None:
            self._pass_over(entry.seq, entry.content, f"{gone} does not exist any more")
        else:
            self._try(entry.seq, entry.content, lambda: send_artifact(run, self._journal, entry))
        self._count([entry])
        later = tuple(seq for seq in self._position.later if seq != entry.seq)
        self._note(replace(self._position, later=later))

    def _try(self, seq: int, content: Mapping[str, Any], action: Callable[[], None]) -> None:
        """Send something; what MLflow refuses is noted, unless that is because of the run."""
        for pause_s in (*_ASK_AGAIN_S, None):
            try:
                action()
                return
            except RefusedError as error:
                self._check_run()
                if pause_s is None or not isinstance(error, DoubtfulError):
                    self._pass_over(seq, content, str(error))
                    return
            time.sleep(pause_s)

    def _check_run(self) -> None:
        run = self._run()
        state = state_of(run)
        if state == "absent":
            raise _GoneError(
                f"MLflow at {redacted(self._uri)} does not know run {run.run_id} any more"
            )
        if state == "deleted":
            raise AwayError(
                f"run {run.run_id} was deleted in MLflow at {redacted(self._uri)}: restore it"
            )

    def _pass_over(self, seq: int, content: Mapping[str, Any], reason: str) -> None:
        self._passed_over.add(seq)
        note_refusal(self._folder, seq, content, reason)
        say(f"passed over line {seq} of {self._journal.path}: {reason}")

    def _run(self) -> Run:
        position = self._position
        if not position.run_id:
            raise ValueError(f"{self._journal.path}: line 1 must be of kind 'run'")
        return Run(uri=self._uri, experiment_id=position.experiment_id, run_id=position.run_id)

    def _entry(self, seq: int) -> Entry:
        return self._journal.entries(seq - 1)[0]

    def _move(self, entries: Sequence[Entry], **changes: Any) -> None:
        """Note that entries are delivered, all but the artifacts among them."""
        self._count([entry for entry in entries if entry.kind not in ARTIFACT_KINDS])
        self._note(replace(self._position, seq=entries[-1].seq, **changes))

    def _count(self, entries: Sequence[Entry]) -> None:
        self.sent.update(entry.kind for entry in entries if entry.seq not in self._passed_over)

    def _note(self, position: SyncPosition) -> None:
        write_position(self._folder, position)
        self._position = position


def _together(entries: Sequence[Entry]) -> list[Entry]:
    """The metrics that the entries begin with and that fit in one request, with the artifacts between them."""
    taken: list[Entry] = []
    points = 0
    for entry in entries:
        points += len(entry.content["values"]) if entry.kind == "metrics" else 0
        is_other = entry.kind not in ("metrics", *ARTIFACT_KINDS)
        if is_other or (taken and points > _POINTS_AT_ONCE):
            break
        taken.append(entry)
    return taken


def _points(entries: Sequence[Entry]) -> list[tuple[int, Point]]:
    """What entries of metrics hold, each with the number of its entry."""
    return [
        (
            entry.seq,
            Point(name=name, value=value, step=entry.content["step"], time_ms=entry.time_ms),
        )
        for entry in entries
        for name, value in entry.content["values"].items()
    ]


def missing(journal: Journal, entry: Entry) -> Path | None:
    """What a parcel consists of, if it does not exist any more."""
    if "path" not in entry.content or entry.kind == "text" or _is_forgotten(journal, entry):
        return None
    path = journal.path_of(entry)
    return None if path.exists() else path


def send_artifact(run: Run, journal: Journal, entry: Entry) -> None:
    """Send a parcel to MLflow. Raises AwayError or RefusedError."""
    told = entry.content
    actions: dict[str, Callable[[], None]] = {
        "file": lambda: _send_file(run, journal, entry),
        "folder": lambda: log_folder(run, journal.path_of(entry), told["at"]),
        "text": lambda: log_text(run, told["text"], told["path"]),
        "model": lambda: _send_model(run, journal, entry),
        "forget_model": lambda: forget_model(run, told["name"]),
        "register": lambda: _register(run, entry),
    }
    actions[entry.kind]()


def _send_file(run: Run, journal: Journal, entry: Entry) -> None:
    told, path = entry.content, journal.path_of(entry)
    log_file(run, path, told["folder"])
    if "step" in told:
        log_image(run, path, told["folder"], told["step"], entry.time_ms)


def _send_model(run: Run, journal: Journal, entry: Entry) -> None:
    if _is_forgotten(journal, entry):
        return
    step = entry.content["step"]
    points = [
        Point(name=name, value=value, step=step, time_ms=time_ms)
        for name, value, time_ms in journal.points_of(step)
    ]
    log_model(run, journal.path_of(entry), step, points)


def _is_forgotten(journal: Journal, entry: Entry) -> bool:
    """Whether a model has been forgotten since it was entered; then its folder may be going."""
    return entry.kind == "model" and entry.content["name"] not in journal.models()


def _register(run: Run, entry: Entry) -> None:
    told = entry.content
    measured = told["metric"], told["value"], told["checksum"]
    say(register(run, told["name"], told["as"], *measured))


def deliver_start(folder: Path, tracking: TrackingSettings) -> None:
    """Deliver the start of the run in `folder` to MLflow. Raises AwayError if it does not answer though it has to."""
    try:
        deliver(folder, tracking.uri)
    except AwayError as error:
        if tracking.required:
            raise
        say(f"{error}; tracking.required is off, so training starts, and MLflow gets it all later")
