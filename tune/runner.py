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
# Similar lines of several trials would be taken for repetitions.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
# Progress is printed here instead.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
import ray.tune
from ray.tune import ExperimentAnalysis, ResumeConfig

from pipeline.cluster.room import fed
from pipeline.cluster.start import check_capacity, cluster
from pipeline.io.console import Pace, duration, say
from pipeline.io.location import is_store
from pipeline.run.journal import JOURNAL_NAME, Journal
from pipeline.run.ownership import Writer
from pipeline.settings import RaySettings
from pipeline.tracking.recording import InterruptedRunError
from tune.budget import Accountant, Ending, ending_on_signals
from tune.cuts import record_cuts
from tune.epochs import has_finished, is_cut, is_whole, reports
from tune.gather import Tried, gather
from tune.outcome import SweepOutcome
from tune.plan import Sweep
from tune.ray_search import param_space, searcher
from tune.recording import kill_running, record_report, record_sweep, register_best, settle
from tune.rules import rule
from tune.trial import Trial, number_of, point_of, run_name

# Folder of Ray Tune's state, in the sweep's folder.
_STATE = "tune"
# A trial's own process only waits for its workers. Ray refuses a trial without resources, and a
# fraction of a CPU would leave too few for the workers.
_TRIAL_SHARE = 0.001
_RESUME = ResumeConfig(
    unfinished=ResumeConfig.ResumeType.RESUME, errored=ResumeConfig.ResumeType.RESUME
)


def run_sweep(sweep: Sweep) -> SweepOutcome:
    """Run every trial, or those left of a sweep that was started before, and report.

    Other trials continue if one fails. Raises ValueError if the cluster cannot
    hold a trial, a required MLflow server does not answer, or the folder holds
    another sweep. Raises InterruptedRunError if the sweep was asked to stop.
    """
    with record_sweep(sweep) as recorder:
        try:
            with cluster(sweep.base.ray.address, is_shared=True):
                check_capacity(fed(sweep.base)[0].ray)
                recorder.begin()
                tried, interruption = _search(sweep, recorder.writer)
                if interruption:
                    recorder.killed()
                    raise InterruptedRunError(
                        f"was stopped by {interruption}; the same command resumes it"
                    )
        except (InterruptedRunError, KeyboardInterrupt):
            kill_running(sweep)
            raise
        for trial in tried:
            settle(sweep, trial)
        outcome = gather(sweep, tried, record_cuts(sweep))
        record_report(recorder, outcome, sweep)
        if sweep.register:
            register_best(sweep, outcome)
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
        finished = [has_finished(journal) and not is_cut(journal) for journal in journals]
        self._before = self._done = sum(finished)
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
        optim = self._sweep.base.replaced(point_of(trial.config)).optim
        if not is_whole(result, optim):
            outcome += f", stopped after {result['samples']:,} samples"
        elif result["epoch"] < optim.epochs:
            since = result["epoch"] - result["best_epoch"]
            outcome += f", ended {optim.describe_end(headline, result['epoch'], since)}"
        self._end(trial, outcome)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print the error of a trial that is retried."""
        name = _folder(self._sweep, trial).name
        say(f"trial {name} failed and is retried: {error_of(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print the error of a trial that failed."""
        self._end(trial, f"FAILED: {error_of(trial)}")

    def _end(self, trial: Any, outcome: str) -> None:
        self._running.pop(trial.trial_id, None)
        self._done += 1
        done, trials = self._done - self._before, self._sweep.trials - self._before
        left = duration(self._pace.left_s(done, trials))
        name = _folder(self._sweep, trial).name
        say(f"trial {self._done}/{self._sweep.trials} {name}: {outcome}  left {left}")


def _search(sweep: Sweep, writer: Writer) -> tuple[list[Tried], str]:
    """Run the trials on Ray Tune. Return them, and the signal that interrupted it, if any."""
    at_once = sweep.search.at_once or trials_at_once(fed(sweep.base)[0].ray)
    narrator = Narrator(sweep)
    metric = sweep.measure.metric_name
    ending = Ending(sweep.folder, lambda: narrator.running, metric, writer)
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
        Trial,
        base=sweep.base.flat(),
        parent=sweep.name,
        is_grid=sweep.is_grid,
        owner=asdict(writer.owner),
        folder=str(sweep.folder),
    )
    with ending_on_signals(ending):
        found = ray.tune.run(
            ray.tune.with_resources(trainable, {_trials_node(sweep): _TRIAL_SHARE}),
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


def _trials_node(sweep: Sweep) -> str:
    """Return Ray's resource of the node where the trials' own processes run.

    Of a sweep in a bucket they share the folder of this process, and so its machine.
    """
    if is_store(sweep.base.ray.storage):
        return f"node:{ray.util.get_node_ip_address()}"
    return "node:__internal_head__"


def _tried(sweep: Sweep, trial: Any) -> Tried:
    return Tried(
        point=point_of(trial.config),
        number=number_of(trial.trial_id, sweep.is_grid),
        error=error_of(trial) if trial.status == "ERROR" else "",
    )


def _folder(sweep: Sweep, trial: Any) -> Path:
    """Return the folder of a trial's run."""
    number = number_of(trial.trial_id, sweep.is_grid)
    return sweep.folder / run_name(point_of(trial.config), number)


def _reports(sweep: Sweep, trial: Any) -> list[dict[str, Any]]:
    """Return the reports of a trial so far; none if it is yet to start."""
    journal = Journal(_folder(sweep, trial))
    return reports(journal, sweep.measure.metric_name) if journal.path.exists() else []


def error_of(trial: Any) -> str:
    """Return the error that a trial failed with, without Ray's wrapping."""
    path = Path(trial.pickled_error_file or "")
    # Ray Tune's own method looks in the storage, where the file comes after the callbacks.
    stored = path.read_bytes() if path.is_file() else None
    error = trial.get_pickled_error() if stored is None else ray.cloudpickle.loads(stored)
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}" if cause else f"see {trial.error_file}"
