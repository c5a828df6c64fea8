"""A sweep's record: its MLflow run, its report, and the ends of trials that were killed."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.io.console import say, say_text
from pipeline.run.checkpoint_manager import best
from pipeline.run.journal import JOURNAL_NAME, Journal, RunSpec
from pipeline.run.ownership import Writer, own
from pipeline.run.storage import hold, shown
from pipeline.tracking.description import artifact_folder, datasets_of, source_tags
from pipeline.tracking.recording import RunRecorder, record, set_aside
from pipeline.tracking.summary import conclude
from pipeline.tracking.sync import deliver_start
from pipeline.tracking.uploader import Uploader
from tune.epochs import has_ended
from tune.gather import Tried
from tune.outcome import SweepOutcome
from tune.plan import Sweep, write_identity
from tune.report.leaderboard import best as leader
from tune.report.page import write_report
from tune.spaces import Range
from tune.trial import plan_trial

# How long to wait for pending uploads of a trial before reporting them.
_PATIENCE_S = 60.0
# The same for all trials together, when a signal ends the sweep at once.
_HASTE_S = 1.0


@contextmanager
def record_sweep(sweep: Sweep) -> Iterator[RunRecorder]:
    """Record the start and the end of the sweep's run; its start is uploaded meanwhile."""

    folder, take_over = sweep.folder, sweep.base.ray.take_over
    with hold(folder, f"sweep {sweep.name}", take_over=take_over) as writer:
        if sweep.restarts:
            set_aside(folder, sweep.base.tracking.uri, writer)
        write_identity(sweep)

        def prepare() -> list[Path]:
            deliver_start(folder, sweep.base.tracking, writer)
            return []

        with record(_spec(sweep), folder, writer, prepare) as recorder:
            yield recorder


def _spec(sweep: Sweep) -> RunSpec:
    settings, plan, space = sweep.base, sweep.plans[0], sweep.space
    varied: dict[str, Any] = {
        key: str(values) if isinstance(values, Range) else list(values)
        for key, values in space.axes.items()
    }
    varied |= {key: [point[key] for point in space.points] for key in space.points[0]}
    params = {key: value for key, value in settings.shown().items() if key not in space.keys}
    params |= {f"sweep.{key}": values for key, values in varied.items()}
    for part in ("search", "early", "budget"):
        params |= {f"{part}.{key}": value for key, value in asdict(getattr(sweep, part)).items()}
    return RunSpec(
        uri=settings.tracking.uri,
        experiment=settings.tracking.experiment,
        name=sweep.name,
        params=params,
        tags={
            "joint_set": plan.joint_set.name,
            "source": plan.train.source,
            **source_tags("tune.sweep"),
        },
        artifacts=artifact_folder(settings.ray.storage.rpartition("/")[0]),
        datasets=datasets_of(plan),
    )


def record_report(recorder: RunRecorder, outcome: SweepOutcome, sweep: Sweep) -> None:
    """Write the report beside the runs, and record it for MLflow."""
    recorder.journal.check()
    for path in write_report(outcome, sweep.folder):
        recorder.journal.file(path, "sweep")
    chosen = leader(outcome)
    samples = outcome.samples
    metrics = {"trials": float(len(outcome.trials)), "sweep_samples": float(samples)}
    if chosen is not None:
        metrics[f"best_{sweep.measure.metric_name}"] = chosen.score
    recorder.journal.metrics(metrics, samples)


def settle(sweep: Sweep, tried: Tried) -> None:
    """Close the record of a trial whose process was killed, so that no run stays RUNNING."""
    folder = sweep.folder / tried.name
    if not Journal(folder).path.exists():
        return
    with hold(folder, f"trial {tried.name}", take_over=True) as writer:
        journal = Journal(folder, writer=writer)
        if not has_ended(journal):
            _conclude(sweep, tried, journal)
            journal.end("FAILED" if tried.error else "KILLED")
        _deliver(folder, sweep.base.tracking.uri, writer)


def kill_running(sweep: Sweep) -> None:
    """Record in a moment that the trials in progress are killed."""
    with ExitStack() as owned:
        uploaders = []
        for path in sweep.folder.glob(f"*/{JOURNAL_NAME}"):
            if has_ended(Journal(path.parent)):
                continue
            owner = own(path.parent, f"trial {path.parent.name}", take_over=True)
            writer = owned.enter_context(owner)
            Journal(path.parent, writer=writer).end("KILLED")
            uploaders.append(Uploader(path.parent, sweep.base.tracking.uri, writer))
            uploaders[-1].finish()
        end = time.monotonic() + _HASTE_S
        for uploader in uploaders:
            uploader.close(max(0.0, end - time.monotonic()))


def _conclude(sweep: Sweep, tried: Tried, journal: Journal) -> None:
    """Record what a trial has reached so far; a damaged run must not fail the sweep."""
    try:
        if best(journal.root, sweep.measure.metric_name) is not None:
            conclude(plan_trial(sweep.base, tried.point, tried.number), journal)
    except (ValueError, OSError) as error:
        say(f"{shown(journal.root)}: its figures are not drawn: {error}")


def register_best(sweep: Sweep, outcome: SweepOutcome) -> None:
    """Register the best trial's best checkpoint as a version of the model."""
    chosen = leader(outcome)
    if chosen is None or chosen.checkpoint is None:
        return
    checkpoint, val = chosen.checkpoint, sweep.plans[0].val
    folder = checkpoint.parent
    with hold(folder, f"trial {folder.name}", take_over=True) as writer:
        Journal(folder, writer=writer).register(
            checkpoint.name, sweep.register, sweep.measure.metric_name, chosen.score, val.checksum
        )
        _deliver(folder, sweep.base.tracking.uri, writer)


def _deliver(folder: Path, uri: str, writer: Writer) -> None:
    """Upload the pending entries of a run that has ended, and name those that remain."""
    pending = Uploader(folder, uri, writer).close(_PATIENCE_S)
    if pending:
        say_text(str(pending))
