"""A run's record from its start to its end: the journal on disk, and its delivery to MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.courier import Courier
from pipeline.delivery import deliver
from pipeline.journal import End, Journal, RunSpec
from pipeline.plan import Plan
from pipeline.progress import say
from pipeline.tracking import AwayError

# What MLflow still lacks at the end of a run is waited for so long, and then named.
_PATIENCE_S = 60.0


class InterruptedRunError(Exception):
    """The run was asked to stop, and has kept a checkpoint; says so to people."""


@contextmanager
def recording(plan: Plan, parent: str = "") -> Iterator[Journal]:
    """Record the start of the plan's run, deliver to MLflow what is entered meanwhile, and record how it ends.

    `parent` is the name of the run that this one is nested under. Raises
    ValueError if tracking.required and MLflow does not answer; once the run
    has begun, nothing that happens to MLflow reaches it.
    """
    settings = plan.settings
    journal = Journal(plan.folder)
    journal.run(_spec(plan, parent))
    try:
        deliver(plan.folder, settings.tracking.uri)
    except AwayError as error:
        if settings.tracking.required:
            raise
        say(f"{error}; tracking.required is off, so training starts, and MLflow gets it all later")
    courier = Courier(plan.folder, settings.tracking.uri)
    end: End = "FAILED"
    try:
        yield journal
        end = "FINISHED"
    except (InterruptedRunError, KeyboardInterrupt, SystemExit):
        end = "KILLED"
        raise
    finally:
        journal.end(end)
        left = courier.close(_PATIENCE_S)
        if left:
            say(str(left))


def _spec(plan: Plan, parent: str) -> RunSpec:
    settings = plan.settings
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
        },
        artifacts=Path(settings.ray.storage).parent / "mlruns",
        parent=parent,
    )
