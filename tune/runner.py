"""A sweep on Ray Tune: its trials are training runs, nested under the sweep's MLflow run."""

import logging
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Read when Ray is imported. After a kill, Ray Tune's state of the experiment is at most this many
# seconds old; trials report again what it has lost.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")
# A trial that is ended early writes a checkpoint and closes its records first.
os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", "300")
# Progress is printed here instead.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
import ray.tune
from ray.tune import ExperimentAnalysis, ResumeConfig

from pipeline.cluster.start import check_capacity, cluster
from pipeline.io.console import Pace, duration, say
from pipeline.run.checkpoint_manager import best
from pipeline.run.journal import JOURNAL_NAME, Journal, RunSpec
from pipeline.settings import RaySettings
from pipeline.tracking.recording import InterruptedRunError, RunRecorder, record
from pipeline.tracking.summary import conclude
from pipeline.tracking.sync import deliver_start
from pipeline.tracking.uploader import Uploader
from tune.budget import Accountant, Ending, ending_on_signals
from tune.epochs import has_ended, has_finished, reports
from tune.gather import Tried, gather
from tune.outcome import SweepOutcome
from tune.plan import Sweep, check_same
from tune.ray_search import param_space, searcher
from tune.report.leaderboard import best as leader
from tune.report.page import write_report
from tune.rules import rule
from tune.spaces import Range
from tune.trial import Trial, number_of, plan_trial, point_of, run_name

# Folder of Ray Tune's state, in the sweep's folder.
_STATE = "tune"
# A trial's own process only waits for its workers. Ray refuses a trial without resources, and a
# fraction of a CPU would leave too few for the workers.
_TRIAL_RESOURCES = {"node:__internal_head__": 0.001}
# How long to wait for pending uploads of a trial before reporting them.
_PATIENCE_S = 60.0
_RESUME = ResumeConfig(
    unfinished=ResumeConfig.ResumeType.RESUME, errored=ResumeConfig.ResumeType.RESUME
)


def run_sweep(sweep: Sweep) -> SweepOutcome:
    """Run every trial, or those left of a sweep that was started before, and report.

    Other trials continue if one fails. Raises ValueError if the cluster cannot
    hold a trial, a required MLflow server does not answer, or the folder holds
    another sweep. Raises InterruptedRunError if the sweep was asked to stop.
    """
    check_same(sweep)
    with record(_spec(sweep), sweep.folder, lambda: _start(sweep)) as recorder:
        with cluster(sweep.base.ray.address, is_shared=True):
            check_capacity(sweep.base.ray)
            recorder.begin()
            tried, interruption = _search(sweep)
        for trial in tried:
            _settle(sweep, trial)
        outcome = gather(sweep, tried)
        _report(recorder, outcome, sweep)
        if sweep.register and not interruption:
            _register(sweep, outcome)
        if interruption:
            raise InterruptedRunError(f"was stopped by {interruption}; the same command resumes it")
    return outcome


def trials_at_once(settings: RaySettings) -> int:
    """Return how many trials the cluster holds at once, at least one."""
    total = ray.cluster_resources()
    fits = [total.get("CPU", 0) / (settings.most_workers * settings.cpus_per_worker)]
    if settings.gpus_per_worker:
        fits.append(total.get("GPU", 0) / (settings.most_workers * settings.gpus_per_worker))
    return max(1, math.floor(min(fits)))


class Narrator(ray.tune.Callback):
    """A callback that prints how trials end and the time left, and knows which ones run."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep, self._pace = sweep, Pace(0)
        journals = [Journal(path.parent) for path in sweep.folder.glob(f"*/{JOURNAL_NAME}")]
        self._before = self._done = sum(map(has_finished, journals))
        self._running: dict[str, Path] = {}

    @property
    def running(self) -> list[Path]:
        """Folders of the runs in progress."""
        return list(self._running.values())

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note a trial that starts or resumes."""
        self._running[trial.trial_id] = _folder(self._sweep, trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print the score of a trial."""
        result, headline = trial.last_result, self._sweep.measure.headline
        outcome = f"{headline} {result['score']:.2f} (epoch {result['best_epoch']})"
        epochs = point_of(trial.config).get("optim.epochs", self._sweep.base.optim.epochs)
        if result["epoch"] < epochs:
            outcome += f", stopped after {result['samples']:,} samples"
        self._end(trial, outcome)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print the error of a trial that is retried."""
        name = _folder(self._sweep, trial).name
        say(f"trial {name} failed and is retried: {_error_of(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print the error of a trial that failed."""
        self._end(trial, f"FAILED: {_error_of(trial)}")

    def _end(self, trial: Any, outcome: str) -> None:
        self._running.pop(trial.trial_id, None)
        self._done += 1
        done, trials = self._done - self._before, self._sweep.trials - self._before
        left = duration(self._pace.left_s(done, trials))
        name = _folder(self._sweep, trial).name
        say(f"trial {self._done}/{self._sweep.trials} {name}: {outcome}  left {left}")


def _search(sweep: Sweep) -> tuple[list[Tried], str]:
    """Run the trials on Ray Tune. Return them, and the signal that interrupted it, if any."""
    at_once = sweep.search.at_once or trials_at_once(sweep.base.ray)
    narrator = Narrator(sweep)
    ending = Ending(sweep.folder, lambda: narrator.running)
    gpus = sweep.base.ray.most_workers * sweep.base.ray.gpus_per_worker
    accountant = Accountant(sweep.budget, gpus, sweep.folder, ending.use_up)
    state = sweep.folder / _STATE
    is_begun = any(state.glob("experiment_state-*.json"))
    say(f"{'resuming' if is_begun else 'starting'} {sweep.trials} trials, {at_once} at once")
    if accountant.used_up():
        say(f"{accountant.used_up()}: no trial is started")
        return [_tried(sweep, trial) for trial in ExperimentAnalysis(str(state)).trials], ""
    # The narrator prints errors and ends of trials instead.
    for talkative in ("ray.tune", "optuna"):
        logging.getLogger(talkative).setLevel(logging.CRITICAL)
    trainable = ray.tune.with_parameters(
        Trial, base=sweep.base.flat(), parent=sweep.name, is_grid=sweep.is_grid
    )
    with ending_on_signals(ending):
        found = ray.tune.run(
            ray.tune.with_resources(trainable, _TRIAL_RESOURCES),
            name=_STATE,
            storage_path=str(sweep.folder),
            config=param_space(sweep),
            num_samples=1 if sweep.is_grid else sweep.trials,
            search_alg=searcher(sweep.search, at_once),
            scheduler=rule(
                sweep.early,
                sweep.epoch_samples,
                sweep.samples,
                lambda trial: _reports(sweep, trial),
            ),
            max_failures=sweep.search.retries,
            raise_on_failed_trial=False,
            callbacks=[narrator, accountant],
            resume=is_begun,
            resume_config=_RESUME if is_begun else None,
            verbose=0,
        )
    return [_tried(sweep, trial) for trial in found.trials], ending.interruption


def _tried(sweep: Sweep, trial: Any) -> Tried:
    return Tried(
        point=point_of(trial.config),
        number=number_of(trial.trial_id, sweep.is_grid),
        error=_error_of(trial) if trial.status == "ERROR" else "",
    )


def _folder(sweep: Sweep, trial: Any) -> Path:
    """Return the folder of a trial's run."""
    number = number_of(trial.trial_id, sweep.is_grid)
    return sweep.folder / run_name(point_of(trial.config), number)


def _reports(sweep: Sweep, trial: Any) -> list[dict[str, Any]]:
    """Return the reports of a trial so far; none if it is yet to start."""
    journal = Journal(_folder(sweep, trial))
    return reports(journal, sweep.measure.metric_name) if journal.path.exists() else []


def _error_of(trial: Any) -> str:
    """Return the error that a trial failed with, without Ray's wrapping."""
    error = trial.pickled_error_file and trial.get_pickled_error()
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}" if cause else f"see {trial.error_file}"


def _settle(sweep: Sweep, tried: Tried) -> None:
    """Close the record of a trial whose process was killed, so that no run stays RUNNING."""
    journal = Journal(sweep.folder / tried.name)
    if not journal.path.exists():
        return
    if not has_ended(journal):
        _conclude(sweep, tried, journal)
        journal.end("FAILED" if tried.error else "KILLED")
    _deliver(journal.root, sweep.base.tracking.uri)


def _conclude(sweep: Sweep, tried: Tried, journal: Journal) -> None:
    """Record what a trial has reached so far; a damaged run must not fail the sweep."""
    try:
        if best(journal.root, sweep.measure.metric_name) is not None:
            conclude(plan_trial(sweep.base, tried.point, tried.number), journal)
    except (ValueError, OSError) as error:
        say(f"{journal.root}: its figures are not drawn: {error}")


def _register(sweep: Sweep, outcome: SweepOutcome) -> None:
    """Register the best trial's best checkpoint as a version of the model."""
    chosen = leader(outcome)
    if chosen is None or chosen.checkpoint is None:
        return
    checkpoint, val = chosen.checkpoint, sweep.plans[0].val
    Journal(checkpoint.parent).register(
        checkpoint.name, sweep.register, sweep.measure.metric_name, chosen.score, val.checksum
    )
    _deliver(checkpoint.parent, sweep.base.tracking.uri)


def _deliver(folder: Path, uri: str) -> None:
    """Upload the pending entries of a run that has ended, and name those that remain."""
    pending = Uploader(folder, uri).close(_PATIENCE_S)
    if pending:
        say(str(pending))


def _spec(sweep: Sweep) -> RunSpec:
    settings, plan, space = sweep.base, sweep.plans[0], sweep.space
    varied: dict[str, Any] = {
        key: f"{values.low:g} to {values.high:g}" if isinstance(values, Range) else list(values)
        for key, values in space.axes.items()
    }
    varied |= {key: [point[key] for point in space.points] for key in space.points[0]}
    params = {key: value for key, value in settings.flat().items() if key not in space.keys}
    params |= {f"sweep.{key}": values for key, values in varied.items()}
    for part in ("search", "early", "budget"):
        params |= {f"{part}.{key}": value for key, value in asdict(getattr(sweep, part)).items()}
    return RunSpec(
        uri=settings.tracking.uri,
        experiment=settings.tracking.experiment,
        name=sweep.name,
        params=params,
        tags={"joint_set": plan.joint_set.name, "source": plan.train.source},
        artifacts=sweep.folder.parent.parent / "mlruns",
    )


def _start(sweep: Sweep) -> list[Path]:
    deliver_start(sweep.folder, sweep.base.tracking)
    return []


def _report(record: RunRecorder, outcome: SweepOutcome, sweep: Sweep) -> None:
    """Write the report beside the runs, and record it for MLflow."""
    for path in write_report(outcome, sweep.folder):
        record.journal.file(path, "sweep")
    chosen = leader(outcome)
    samples = sum(trial.samples for trial in outcome.trials)
    metrics = {"trials": float(len(outcome.trials)), "sweep_samples": float(samples)}
    if chosen is not None:
        metrics[f"best_{sweep.measure.metric_name}"] = chosen.score
    record.journal.metrics(metrics, samples)
