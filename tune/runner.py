"""A sweep on Ray Tune: its trials are training runs, nested under the sweep's MLflow run."""

import logging
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Read when Ray is imported. What Ray Tune knows of the experiment is at most so many
# seconds old after a kill; what it has forgotten, trials tell it again.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "2")
# A trial that is ended early writes a checkpoint and closes its record first.
os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", "300")
# What is to be said of trials is said here.
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

# Ray Tune's own state of the sweep, in its folder.
_STATE = "tune"
# A trial's own process only waits for its workers. Asking for no CPU at all is
# refused, and for a share of one would leave too few for the workers.
_TRIAL_RESOURCES = {"node:__internal_head__": 0.001}
# What MLflow still lacks of a trial that was killed is waited for so long.
_PATIENCE_S = 60.0
_GO_ON = ResumeConfig(
    unfinished=ResumeConfig.ResumeType.RESUME, errored=ResumeConfig.ResumeType.RESUME
)


def run_sweep(sweep: Sweep) -> SweepOutcome:
    """Run every trial, or those that are left of a sweep that was begun before; then report.

    A failed trial does not take the others along. Raises ValueError if the
    cluster can't hold one trial, MLflow can't be reached though it has to be,
    or the sweep's folder holds another one, and InterruptedRunError when it was
    asked to stop.
    """
    check_same(sweep)
    with record(_spec(sweep), sweep.folder, lambda: _start(sweep)) as recorder:
        with cluster(sweep.base.ray.address, is_shared=True):
            check_capacity(sweep.base.ray)
            recorder.begin()
            tried, interruption = _search(sweep)
        for one in tried:
            _settle(sweep, one)
        outcome = gather(sweep, tried)
        _report(recorder, outcome, sweep)
        if sweep.register and not interruption:
            _register(sweep, outcome)
        if interruption:
            raise InterruptedRunError(f"was stopped by {interruption}; the same command goes on")
    return outcome


def trials_at_once(settings: RaySettings) -> int:
    """How many trials the cluster as it is holds at once, at least one."""
    total = ray.cluster_resources()
    fits = [total.get("CPU", 0) / (settings.most_workers * settings.cpus_per_worker)]
    if settings.gpus_per_worker:
        fits.append(total.get("GPU", 0) / (settings.most_workers * settings.gpus_per_worker))
    return max(1, math.floor(min(fits)))


class Narrator(ray.tune.Callback):
    """Says when a trial ends, and about how long the others will take; knows which are going on."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep, self._pace = sweep, Pace(0)
        journals = [Journal(path.parent) for path in sweep.folder.glob(f"*/{JOURNAL_NAME}")]
        self._before = self._done = sum(map(has_finished, journals))
        self._running: dict[str, Path] = {}

    @property
    def running(self) -> list[Path]:
        """Folders of the runs of the trials that are going on."""
        return list(self._running.values())

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial has begun, or goes on."""
        self._running[trial.trial_id] = _folder(self._sweep, trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say what a trial has reached."""
        result = trial.last_result
        reached = (
            f"{self._sweep.measure.headline} {result['score']:.2f} (epoch {result['best_epoch']})"
        )
        epochs = point_of(trial.config).get("optim.epochs", self._sweep.base.optim.epochs)
        is_whole = result["epoch"] >= epochs
        early = "" if is_whole else f", stopped after {result['samples']:,} samples"
        self._say(trial, reached + early)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial has failed, why, and that it is tried again."""
        name = _folder(self._sweep, trial).name
        say(f"trial {name} failed and is tried again: {_reason(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial has failed, and why."""
        self._say(trial, f"FAILED: {_reason(trial)}")

    def _say(self, trial: Any, outcome: str) -> None:
        self._running.pop(trial.trial_id, None)
        self._done += 1
        done, trials = self._done - self._before, self._sweep.trials - self._before
        left = duration(self._pace.left_s(done, trials))
        name = _folder(self._sweep, trial).name
        say(f"trial {self._done}/{self._sweep.trials} {name}: {outcome}  left {left}")


def _search(sweep: Sweep) -> tuple[list[Tried], str]:
    """Let Ray Tune run the trials. Returns them, and the signal that has interrupted it, if one has."""
    at_once = sweep.search.at_once or trials_at_once(sweep.base.ray)
    logger = Narrator(sweep)
    ending = Ending(sweep.folder, lambda: logger.running)
    gpus = sweep.base.ray.most_workers * sweep.base.ray.gpus_per_worker
    accountant = Accountant(sweep.budget, gpus, sweep.folder, ending.use_up)
    state = sweep.folder / _STATE
    is_begun = any(state.glob("experiment_state-*.json"))
    say(f"{'going on with' if is_begun else 'beginning'} {sweep.trials} trials, {at_once} at once")
    trainable = ray.tune.with_parameters(
        Trial, base=sweep.base.flat(), parent=sweep.name, is_grid=sweep.is_grid
    )
    if accountant.used_up():
        say(f"{accountant.used_up()}: no trial goes on")
        return [_tried(sweep, trial) for trial in ExperimentAnalysis(str(state)).trials], ""
    # What trials fail with, and how the search ends, is said here.
    for talkative in ("ray.tune", "optuna"):
        logging.getLogger(talkative).setLevel(logging.CRITICAL)
    with ending_on_signals(ending):
        found = ray.tune.run(
            ray.tune.with_resources(trainable, _TRIAL_RESOURCES),
            name=_STATE,
            storage_path=str(sweep.folder),
            config=param_space(sweep),
            num_samples=1 if sweep.is_grid else sweep.trials,
            search_alg=searcher(sweep.search, at_once),
            scheduler=rule(
                sweep.early, sweep.epoch_samples, sweep.samples, lambda trial: _told(sweep, trial)
            ),
            max_failures=sweep.search.retries,
            raise_on_failed_trial=False,
            callbacks=[logger, accountant],
            resume=is_begun,
            resume_config=_GO_ON if is_begun else None,
            verbose=0,
        )
    return [_tried(sweep, trial) for trial in found.trials], ending.interruption


def _tried(sweep: Sweep, trial: Any) -> Tried:
    return Tried(
        point=point_of(trial.config),
        number=number_of(trial.trial_id, sweep.is_grid),
        error=_reason(trial) if trial.status == "ERROR" else "",
    )


def _folder(sweep: Sweep, trial: Any) -> Path:
    """Folder of a trial's run."""
    number = number_of(trial.trial_id, sweep.is_grid)
    return sweep.folder / run_name(point_of(trial.config), number)


def _told(sweep: Sweep, trial: Any) -> list[dict[str, Any]]:
    """What a trial has reported so far; nothing if it is yet to begin."""
    journal = Journal(_folder(sweep, trial))
    return reports(journal, sweep.measure.metric_name) if journal.path.exists() else []


def _reason(trial: Any) -> str:
    """What a trial failed with, without the way that it took through Ray."""
    error = trial.pickled_error_file and trial.get_pickled_error()
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}" if cause else f"see {trial.error_file}"


def _settle(sweep: Sweep, tried: Tried) -> None:
    """Close the record of a trial whose process was ended before it could: no run stays RUNNING."""
    folder = sweep.folder / run_name(tried.point, tried.number)
    journal = Journal(folder)
    if not journal.path.exists():
        return
    if not has_ended(journal):
        _conclude(sweep, tried, journal)
        journal.end("FAILED" if tried.error else "KILLED")
    _deliver(folder, sweep.base.tracking.uri)


def _conclude(sweep: Sweep, tried: Tried, journal: Journal) -> None:
    """Enter what a trial has reached so far, if anything; what is damaged of it takes nothing else along."""
    try:
        if best(journal.root, sweep.measure.metric_name) is not None:
            conclude(plan_trial(sweep.base, tried.point, tried.number), journal)
    except (ValueError, OSError) as error:
        say(f"{journal.root}: its figures are not drawn: {error}")


def _register(sweep: Sweep, outcome: SweepOutcome) -> None:
    """Have the best trial's best checkpoint be a version of the registered model."""
    chosen = leader(outcome)
    if chosen is None or chosen.checkpoint is None:
        return
    checkpoint, val = chosen.checkpoint, sweep.plans[0].val
    Journal(checkpoint.parent).register(
        checkpoint.name, sweep.register, sweep.measure.metric_name, chosen.score, val.checksum
    )
    _deliver(checkpoint.parent, sweep.base.tracking.uri)


def _deliver(folder: Path, uri: str) -> None:
    """Deliver what MLflow lacks of a run that has ended, or say what that is."""
    left = Uploader(folder, uri).close(_PATIENCE_S)
    if left:
        say(str(left))


def _spec(sweep: Sweep) -> RunSpec:
    settings, plan = sweep.base, sweep.plans[0]
    varied = {
        f"sweep.{key}": f"{values.low:g} to {values.high:g}"
        if isinstance(values, Range)
        else list(values)
        for key, values in sweep.space.axes.items()
    }
    varied |= {
        f"sweep.{key}": [point[key] for point in sweep.space.points]
        for key in sweep.space.points[0]
    }
    fixed = {key: value for key, value in settings.flat().items() if key not in sweep.space.keys}
    how = {
        f"{part}.{key}": value
        for part, chosen in (
            ("search", sweep.search),
            ("early", sweep.early),
            ("budget", sweep.budget),
        )
        for key, value in asdict(chosen).items()
    }
    return RunSpec(
        uri=settings.tracking.uri,
        experiment=settings.tracking.experiment,
        name=sweep.name,
        params=fixed | varied | how,
        tags={"joint_set": plan.joint_set.name, "source": plan.train.source},
        artifacts=sweep.folder.parent.parent / "mlruns",
    )


def _start(sweep: Sweep) -> list[Path]:
    deliver_start(sweep.folder, sweep.base.tracking)
    return []


def _report(record: RunRecorder, outcome: SweepOutcome, sweep: Sweep) -> None:
    """Keep the report beside the runs and in MLflow."""
    for path in write_report(outcome, sweep.folder):
        record.journal.file(path, "sweep")
    chosen = leader(outcome)
    samples = sum(trial.samples for trial in outcome.trials)
    metrics = {"trials": float(len(outcome.trials)), "sweep_samples": float(samples)}
    if chosen is not None:
        metrics[f"best_{sweep.measure.metric_name}"] = chosen.score
    record.journal.metrics(metrics, samples)
