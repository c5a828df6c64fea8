"""The trials of a sweep on Ray Tune: each a training run, nested under the sweep's MLflow run."""

import math
import time
from collections.abc import Iterable
from typing import Any

import pandas as pd
import ray
import ray.tune

from pipeline import tracking
from pipeline.cluster import check_capacity, cluster
from pipeline.figures import trials_against
from pipeline.launch import train
from pipeline.network.cost import network_cost
from pipeline.plan import plan_training
from pipeline.progress import Pace, duration, say
from pipeline.recording import recording
from pipeline.settings import RaySettings, Settings
from tune.plan import Sweep
from tune.spaces import trial_name

# A trial's own process only waits for its workers. Asking for no CPU at all is
# refused, and for a share of one would leave too few for the workers.
_TRIAL_RESOURCES = {"node:__internal_head__": 0.001}
# Ray Tune varies one thing, the whole point: settings that only fit together stay together.
_POINT = "point"


def run_sweep(sweep: Sweep) -> int:
    """Run every trial, then print and keep the table and the figures. Returns how many trials failed.

    A failed trial does not take the others along. Raises ValueError if the
    cluster can't hold one trial or MLflow can't be reached.
    """
    settings = sweep.base.ray
    with cluster(settings.address):
        check_capacity(settings)
        parent = _start_parent(sweep)
        status: tracking.Status = "FAILED"
        try:
            results = _tuner(sweep).fit()
            table = _table(sweep, results)
            _conclude(sweep, parent, table)
            failures = int(table["score"].isna().sum())
            status = "FAILED" if failures else "FINISHED"
        finally:
            tracking.end_run(parent, status)
    return failures


def run_trial(config: dict[str, Any], *, base: dict[str, Any], parent: str) -> None:
    """Train one trial, nested under the run `parent`: the settings `base` with those of its point replaced, both by dotted key."""
    point = config[_POINT]
    settings = Settings.from_flat(base).replaced(point | {"ray.name": trial_name(point)})
    plan, started = plan_training(settings), time.monotonic()
    with recording(plan, parent=parent) as record:
        outcome = train(plan, record, label=plan.settings.ray.name)
    ray.tune.report(
        {
            "score": outcome.scores[plan.measure.key].headline,
            "best_epoch": outcome.epoch,
            "seconds": time.monotonic() - started,
            "checkpoint": str(outcome.checkpoint),
        }
    )


def trials_at_once(settings: RaySettings) -> int:
    """How many trials the cluster as it is holds at once, at least one."""
    total = ray.cluster_resources()
    fits = [total.get("CPU", 0) / (settings.most_workers * settings.cpus_per_worker)]
    if settings.gpus_per_worker:
        fits.append(total.get("GPU", 0) / (settings.most_workers * settings.gpus_per_worker))
    return max(1, math.floor(min(fits)))


class Narrator(ray.tune.Callback):
    """Says when a trial ends, and about how long the others will take."""

    def __init__(self, trials: int, headline: str) -> None:
        self._trials, self._headline = trials, headline
        self._done, self._pace = 0, Pace(0)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say what a trial has reached."""
        result = trial.last_result
        self._say(trial, f"{self._headline} {result['score']:.2f} (epoch {result['best_epoch']})")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial has failed, and where its error is."""
        self._say(trial, f"FAILED, see {trial.error_file}")

    def _say(self, trial: Any, outcome: str) -> None:
        self._done += 1
        left = duration(self._pace.left_s(self._done, self._trials))
        say(
            f"trial {self._done}/{self._trials} {trial_name(trial.config[_POINT])}: {outcome}  left {left}"
        )


def _tuner(sweep: Sweep) -> ray.tune.Tuner:
    at_once = trials_at_once(sweep.base.ray)
    say(f"{at_once} trials at once")
    trainable = ray.tune.with_parameters(run_trial, base=sweep.base.flat(), parent=sweep.name)
    return ray.tune.Tuner(
        ray.tune.with_resources(trainable, _TRIAL_RESOURCES),
        param_space={_POINT: ray.tune.grid_search(list(sweep.points))},
        tune_config=ray.tune.TuneConfig(max_concurrent_trials=at_once),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=str(sweep.folder),
            verbose=0,
            callbacks=[Narrator(len(sweep.plans), sweep.measure.headline)],
        ),
    )


def _start_parent(sweep: Sweep) -> tracking.Run:
    settings = sweep.base
    varied = {f"sweep.{key}": list(values) for key, values in sweep.axes.items()}
    fixed = {key: value for key, value in settings.flat().items() if key not in sweep.axes}
    return tracking.start_run(
        settings.tracking.uri,
        settings.tracking.experiment,
        sweep.name,
        params=fixed | varied,
        tags={"joint_set": sweep.plans[0].joint_set.name, "source": sweep.plans[0].train.source},
        artifacts=sweep.folder.parent.parent / "mlruns",
    )


def _table(sweep: Sweep, results: Iterable[Any]) -> pd.DataFrame:
    """One row a trial, best first: its replaced settings, cost and outcome; NaN where it failed."""
    columns = ["score", "best_epoch", "seconds", "checkpoint"]
    rows = []
    for result in results:
        point = result.config[_POINT]
        settings = sweep.base.replaced(point)
        cost = network_cost(settings.model)
        metrics = {} if result.error else (result.metrics or {})
        rows.append(
            {"trial": trial_name(point)}
            | point
            | {"parameters": cost.parameters, "gmac": round(cost.macs / 1e9, 3)}
            | {column: metrics.get(column, math.nan) for column in columns}
        )
    return pd.DataFrame(rows).sort_values("score", ascending=False, ignore_index=True)


def _conclude(sweep: Sweep, parent: tracking.Run, table: pd.DataFrame) -> None:
    """Print the table; keep it and a figure for each axis beside the runs and in MLflow."""
    headline = sweep.measure.headline
    shown = table.rename(columns={"score": headline}).drop(columns="checkpoint")
    text = shown.to_string(index=False, float_format=lambda value: f"{value:.4g}")
    say(f"\n{text}\n")
    table.to_csv(sweep.folder / "trials.csv", index=False)
    tracking.log_file(parent, sweep.folder / "trials.csv", "sweep")
    done = table.dropna(subset=["score"])
    if done.empty:
        return
    tracking.log_metrics(parent, {f"best_{sweep.measure.metric_name}": done["score"].max()}, 0)
    for key in sweep.axes:
        figure = trials_against(key, done[key].tolist(), done["score"].tolist(), headline)
        path = sweep.folder / f"{sweep.measure.key}_against_{key}.png"
        figure.savefig(path, dpi=100)
        tracking.log_file(parent, path, "sweep")
        say(f"figure: {path}")
    best = done.iloc[0]
    say(f"best: {best['trial']}, checkpoint {best['checkpoint']}")
    say(f"compare the runs: {tracking.ui_command(sweep.base.tracking.uri)}")
