"""A run's record from its start to its end: the journal on disk, and its delivery to MLflow."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.journal import End, Journal, RunSpec
from pipeline.life import alive
from pipeline.network.cost import network_cost
from pipeline.note import NOTE, note
from pipeline.plan import Plan
from pipeline.progress import say
from pipeline.provenance import origin

if TYPE_CHECKING:
    from pipeline.courier import Courier

# What MLflow still lacks at the end of a run is waited for so long, and then named.
_PATIENCE_S = 60.0


class InterruptedRunError(Exception):
    """The run was asked to stop, and has kept a checkpoint; says so to people."""


class Recording:
    """A run's record while the run goes on: its journal, and what delivers it to MLflow."""

    def __init__(self, plan: Plan, preparing: Future[Path]) -> None:
        self._plan, self._preparing = plan, preparing
        self._courier: Courier | None = None
        self.journal = Journal(plan.folder)

    def begin(self) -> None:
        """Wait until MLflow has the start of the run; from then on nothing that happens to it reaches the run.

        Raises AwayError if tracking.required and it does not answer.
        """
        self.journal.file(self._preparing.result(), "")
        from pipeline.courier import Courier

        self._courier = Courier(self._plan.folder, self._plan.settings.tracking.uri)

    def end(self, end: End) -> None:
        """Record how the run ended, and say what MLflow lacks of it."""
        self.journal.end(end)
        if self._courier is None:
            return
        left = self._courier.close(_PATIENCE_S)
        if left:
            say(str(left))


@contextmanager
def recording(plan: Plan, parent: str = "") -> Iterator[Recording]:
    """Record the start of the plan's run, which is delivered while the caller goes on, and how it ends.

    `parent` is the name of the run that this one is nested under.
    """
    with alive(plan.folder), ThreadPoolExecutor(1, thread_name_prefix="prepare") as beside:
        Journal(plan.folder).run(_spec(plan, parent))
        record = Recording(plan, beside.submit(_prepare, plan))
        end: End = "FAILED"
        try:
            yield record
            end = "FINISHED"
        except (InterruptedRunError, KeyboardInterrupt, SystemExit):
            end = "KILLED"
            raise
        finally:
            record.end(end)


def _prepare(plan: Plan) -> Path:
    # MLflow's import is part of what takes long.
    from pipeline.preparation import prepare

    return prepare(plan)


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
            NOTE: note(plan, cost),
            **origin(),
        },
        artifacts=Path(settings.ray.storage).parent / "mlruns",
        parent=parent,
    )
