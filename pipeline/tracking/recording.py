"""A run from its start to its end: its owner, its journal on disk, and the upload to MLflow."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.io.console import say, say_text
from pipeline.io.interruption import is_ending, last_words
from pipeline.io.redaction import redacted
from pipeline.io.threads import beside
from pipeline.run.journal import JOURNAL_NAME, End, Journal, RunSpec
from pipeline.run.layout import SWEEP_NAME
from pipeline.run.ownership import HeldError, Writer, newest_claim
from pipeline.run.plan import Plan
from pipeline.run.storage import hold, is_taken, move_aside, shown
from pipeline.tracking.description import run_spec
from pipeline.tracking.links import is_server, link, recorded_runs, run_page
from pipeline.tracking.long_values import record_long

if TYPE_CHECKING:
    from pipeline.tracking.uploader import Uploader

# Seconds to wait for pending uploads at the end of a run before reporting them; while a signal ends
# the program; and before it is ended by force.
_PATIENCE_S, _HASTE_S, _LAST_S = 60.0, 1.5, 0.5


class InterruptedRunError(Exception):
    """The run was asked to stop, and has kept a checkpoint. The message is for people."""


class RunRecorder:
    """A run's journal in `folder`, and the uploader that sends it to MLflow at `uri`.

    Both act as `writer`, and raise SupersededError once another start owns the run.
    """

    def __init__(self, folder: Path, uri: str, writer: Writer) -> None:
        self._folder, self._uri = folder, uri
        self._preparing: Future[list[Path]] | None = None
        self._uploader: Uploader | None = None
        self._is_killed = self._has_ended = self._is_nested = False
        self.writer = writer
        self.journal = Journal(folder, writer=writer)

    def start(self, spec: RunSpec, prepare: Callable[[], list[Path]]) -> None:
        """Record the start of the run, and begin to prepare it on a thread."""
        self.journal.run(spec)
        record_long(self.journal, spec.params, spec.tags)
        self._is_nested = bool(spec.parent)
        self._preparing = beside(prepare, "prepare")

    def begin(self) -> None:
        """Wait until MLflow has the start of the run, and print the run's page on a server.

        Later errors of MLflow do not affect the run.

        Raises AwayError if tracking.required and MLflow does not answer.
        """
        assert self._preparing is not None, "the run was started"
        for picture in self._preparing.result():
            self.journal.file(picture, "")
        self._upload()
        if is_server(self._uri) and not self._is_nested:
            for run in recorded_runs([self._folder]):
                say(f"in MLflow: {link(self._uri, run_page(run))}")

    def killed(self) -> None:
        """Record that a signal has stopped the run. The upload continues while Ray ends."""
        self._is_killed = True
        self.journal.end("KILLED")
        if self._uploader is not None:
            self._uploader.finish()

    def end(self, end: End) -> None:
        """Record how the run ended, and print what MLflow does not have of it."""
        self._end(end, _HASTE_S if self._is_killed or is_ending() else _PATIENCE_S)

    def kill(self) -> None:
        """Record in a moment that the run is killed, unless it has ended."""
        self._end("KILLED", _LAST_S)

    def _end(self, end: End, patience_s: float) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if not self._is_killed and not _has_end(self.journal):
            self.journal.end(end)
        if self._uploader is None and self._is_started_within(patience_s):
            self._upload()
        if self._uploader is None:
            return
        if patience_s < _PATIENCE_S and not self._is_killed:
            self._uploader.finish()
        try:
            backlog = self._uploader.close(patience_s)
        except KeyboardInterrupt:
            self._uploader.finish()
            say_text(str(self._uploader.close(_HASTE_S)))
            raise
        if backlog:
            say_text(str(backlog))

    def _is_started_within(self, patience_s: float) -> bool:
        """Whether MLflow may have the start of a run that ends before it began."""
        if self._preparing is None or wait([self._preparing], patience_s).not_done:
            return False
        from pipeline.tracking.client import AwayError

        return not isinstance(self._preparing.exception(), AwayError)

    def _upload(self) -> None:
        from pipeline.tracking.uploader import Uploader

        self._uploader = Uploader(self._folder, self._uri, self.writer)


@contextmanager
def record_run(plan: Plan, parent: str = "", *, take_over: bool = False) -> Iterator[RunRecorder]:
    """Record the plan's run as `record` does, nested under the run named `parent`, if any."""
    ray = plan.settings.ray
    with hold(plan.folder, f"run {ray.name}", take_over=take_over or ray.take_over) as writer:
        if plan.restarts:
            set_aside(plan.folder, plan.settings.tracking.uri, writer)
        spec = run_spec(plan, parent)
        with record(spec, plan.folder, writer, lambda: _prepare(plan, writer)) as recorder:
            yield recorder


def set_aside(folder: Path, uri: str, writer: Writer) -> None:
    """Move the content of a folder of a run, or of a sweep, to a new one beside it.

    Its run gets the new folder's name, in MLflow too: otherwise the next run of the old name would
    be recorded in it. Raises AwayError if MLflow does not answer; nothing is moved then.
    """
    from pipeline.tracking.client import AwayError
    from pipeline.tracking.runs import NAME_TAG, SHOWN_NAME_TAG
    from pipeline.tracking.sync import deliver

    name = next(
        name
        for number in count(1)
        if not is_taken(folder.parent / (name := f"{folder.name}-before-{number}"), folder)
    )
    journal = Journal(folder, writer=writer)
    if not _has_end(journal):
        journal.end("KILLED")
    if journal.entries():
        journal.tags({NAME_TAG: name, SHOWN_NAME_TAG: name})
    try:
        # The trials first: they find their sweep by the name that it has.
        for path in (*folder.glob(f"*/{JOURNAL_NAME}"), *folder.glob(JOURNAL_NAME)):
            starts = [e.content for e in Journal(path.parent).entries() if e.kind == "run"]
            if starts and redacted(starts[-1]["uri"]) == redacted(uri):
                deliver(path.parent, uri)
    except AwayError:
        journal.tags({NAME_TAG: folder.name, SHOWN_NAME_TAG: folder.name})
        raise
    aside = folder.parent / name
    # Last what tells a start that finds the rest gone that there was another run or sweep.
    move_aside(folder, aside, (JOURNAL_NAME, SWEEP_NAME), writer)
    say(f"{folder.name} starts over; what was there is kept in {shown(aside)}")


@contextmanager
def record(
    spec: RunSpec, folder: Path, writer: Writer, prepare: Callable[[], list[Path]]
) -> Iterator[RunRecorder]:
    """Record the start of a run, and how it ends, in the journal in `folder`, as its owner.

    `prepare` runs on a thread beside the caller: it sends the start to MLflow, and returns pictures
    that the run begins with. Once another start owns the run, nothing more is recorded, and
    SupersededError is raised.
    """
    recorder = RunRecorder(folder, spec.uri, writer)
    end: End = "FAILED"
    with last_words(recorder.kill):
        try:
            recorder.start(spec, prepare)
            yield recorder
            end = "FINISHED"
        except (InterruptedRunError, KeyboardInterrupt, SystemExit):
            end = "KILLED"
            raise
        finally:
            recorder.end("KILLED" if is_ending() else end)


def _prepare(plan: Plan, writer: Writer) -> list[Path]:
    # The import of MLflow is part of what takes long.
    from pipeline.tracking.summary import prepare

    return [prepare(plan, writer)]


def end_abandoned(folder: Path) -> bool:
    """Record the end of a run whose driver died; return whether it did.

    Raises OSError, and ValueError if the journal is damaged.
    """
    if _has_end(Journal(folder)) or newest_claim(folder) is None:
        return False
    try:
        with hold(folder, f"run {folder.name}") as writer:
            journal = Journal(folder, writer=writer)
            if _has_end(journal):
                return False
            journal.end("KILLED")
    except HeldError:
        return False
    return True


def _has_end(journal: Journal) -> bool:
    """Whether the last start of a run has ended, or there was none."""
    kinds = [entry.kind for entry in journal.entries() if entry.kind in ("run", "end")]
    return kinds[-1:] != ["run"]
