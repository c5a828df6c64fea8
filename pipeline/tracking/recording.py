"""A run's record from its start to its end: the journal on disk, and its delivery to MLflow."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.io.console import say
from pipeline.model.cost import network_cost
from pipeline.run.journal import End, Journal, RunSpec
from pipeline.run.lock import driver_lock
from pipeline.run.plan import Plan
from pipeline.run.provenance import origin
from pipeline.tracking.description import NOTE, describe_run

if TYPE_CHECKING:
    from pipeline.tracking.uploader import Uploader

# What MLflow still lacks at the end of a run is waited for so long, and then named.
_PATIENCE_S = 60.0


class InterruptedRunError(Exception):
    """The run was asked to stop, and has kept a checkpoint; says so to people."""


class RunRecorder:
    """A run's record while the run goes on: its journal in `folder`, and what delivers it to MLflow at `uri`."""

    def __init__(self, folder: Path, uri: str, preparing: Future[list[Path]]) -> None:
        self._folder, self._uri, self._preparing = folder, uri, preparing
        self._uploader: Uploader | None = None
        self.journal = Journal(folder)

    def begin(self) -> None:
        """Wait until MLflow has the start of the run; from then on nothing that happens to it reaches the run.

        Raises AwayError if tracking.required and it does not answer.
        """
        for picture in self._preparing.result():
            self.journal.file(picture, "")
        from pipeline.tracking.uploader import Uploader

        self._uploader = Uploader(self._folder, self._uri)

    def end(self, end: End) -> None:
        """Record how the run ended, and say what MLflow lacks of it."""
        self.journal.end(end)
        if self._uploader is None:
            return
        left = self._uploader.close(_PATIENCE_S)
        if left:
            say(str(left))


@contextmanager
def record_run(plan: Plan, parent: str = "") -> Iterator[RunRecorder]:
    """Record the start of the plan's run, which is delivered while the caller goes on, and how it ends.

    `parent` is the name of the run that this one is nested under.
    """
    with record(_spec(plan, parent), plan.folder, lambda: _prepare(plan)) as recorder:
        yield recorder


@contextmanager
def record(spec: RunSpec, folder: Path, prepare: Callable[[], list[Path]]) -> Iterator[RunRecorder]:
    """Record the start of a run, and how it ends, in the journal in `folder`.

    `prepare` delivers the start to MLflow while the caller goes on, and returns
    pictures that the run begins with.
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
    # MLflow's import is part of what takes long.
    from pipeline.tracking.summary import prepare

    return [prepare(plan)]


def _spec(plan: Plan, parent: str) -> RunSpec:
    settings, cost = plan.settings, network_cost(plan.settings.model)
    return RunSpec(
        uri=settings.tracking.uri,
        experiment=settings.tracking.experiment,
        name=settings.ray.name,
        params=settings.flat(),
        tags={
            "joint_set": plan.joint_set.name,
            "source": plan.train.source,
            "data.train.checksum": plan.train.checksum,
            "data.val.checksum": plan.val.checksum,
            "parameters": str(cost.parameters),
            "gmacs": f"{cost.macs / 1e9:.3g}",
            NOTE: describe_run(plan, cost),
            **origin(),
        },
        artifacts=Path(settings.ray.storage).parent / "mlruns",
        parent=parent,
    )
