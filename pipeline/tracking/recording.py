"""A run from its start to its end: its journal on disk, and the upload of that to MLflow."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.io.console import say
from pipeline.run.journal import End, Journal, RunSpec
from pipeline.run.lock import driver_lock
from pipeline.run.plan import Plan
from pipeline.tracking.description import run_spec

if TYPE_CHECKING:
    from pipeline.tracking.uploader import Uploader

# Seconds to wait for pending uploads at the end of a run before reporting them.
_PATIENCE_S = 60.0


class InterruptedRunError(Exception):
    """The run was asked to stop, and has kept a checkpoint. The message is for people."""


class RunRecorder:
    """A run's journal in `folder`, and the uploader that sends it to MLflow at `uri`."""

    def __init__(self, folder: Path, uri: str, preparing: Future[list[Path]]) -> None:
        self._folder, self._uri, self._preparing = folder, uri, preparing
        self._uploader: Uploader | None = None
        self.journal = Journal(folder)

    def begin(self) -> None:
        """Wait until MLflow has the start of the run. Later errors of MLflow do not affect the run.

        Raises AwayError if tracking.required and MLflow does not answer.
        """
        for picture in self._preparing.result():
            self.journal.file(picture, "")
        from pipeline.tracking.uploader import Uploader

        self._uploader = Uploader(self._folder, self._uri)

    def end(self, end: End) -> None:
        """Record how the run ended, and print what MLflow does not have of it."""
        self.journal.end(end)
        backlog = self._uploader and self._uploader.close(_PATIENCE_S)
        if backlog:
            say(str(backlog))


@contextmanager
def record_run(plan: Plan, parent: str = "") -> Iterator[RunRecorder]:
    """Record the plan's run as `record` does, nested under the run named `parent`, if any."""
    with record(run_spec(plan, parent), plan.folder, lambda: _prepare(plan)) as recorder:
        yield recorder


@contextmanager
def record(spec: RunSpec, folder: Path, prepare: Callable[[], list[Path]]) -> Iterator[RunRecorder]:
    """Record the start of a run, and how it ends, in the journal in `folder`.

    `prepare` runs on a thread beside the caller: it sends the start to MLflow, and returns pictures
    that the run begins with.
    """
    with driver_lock(folder), ThreadPoolExecutor(1, thread_name_prefix="prepare") as beside:
        Journal(folder).run(spec)
        recorder = RunRecorder(folder, spec.uri, beside.submit(prepare))
        end: End = "FAILED"
        try:
            yield recorder
            end = "FINISHED"
        except (InterruptedRunError, KeyboardInterrupt, SystemExit):
            end = "KILLED"
            raise
        finally:
            recorder.end(end)


def _prepare(plan: Plan) -> list[Path]:
    # The import of MLflow is part of what takes long.
    from pipeline.tracking.summary import prepare

    return [prepare(plan)]
