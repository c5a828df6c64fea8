"""A trial: a training run, nested under the sweep's MLflow run, that tells Ray Tune of each of its epochs."""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray.tune

from pipeline.cluster.launch import train
from pipeline.cluster.stop import Stop
from pipeline.model.cost import network_cost
from pipeline.run.checkpoint_manager import best
from pipeline.run.journal import Journal
from pipeline.run.layout import STOP_NAME
from pipeline.run.plan import Plan, plan_training
from pipeline.settings import Settings
from pipeline.tracking.recording import InterruptedRunError, RunRecorder, record_run
from pipeline.tracking.summary import conclude
from tune.epochs import STOPPED_TAG, has_ended, reports
from tune.spaces import Point, trial_name

# Ray Tune varies one thing, the whole point: settings that only fit together stay together.
POINT = "point"
_LOOK_S = 0.2


class Trial(ray.tune.Trainable):
    """Trains in a thread; a step of Ray Tune's lasts until the next epoch is in the run's journal.

    Nothing is handed to Ray Tune to keep: a trial that is started again, on
    whatever node, goes on from the run's own checkpoints. It reports all epochs
    from the first again, so that a scheduler which has lost the last ones hears
    of them too; those that it knows change nothing.
    """

    def setup(
        self, config: dict[str, Any], *, base: dict[str, Any], parent: str, is_grid: bool
    ) -> None:
        """Start or go on. `base` are settings by dotted key, `parent` the sweep's name."""
        point, number = point_of(config), number_of(self.trial_id, is_grid)
        self._plan = plan_trial(Settings.from_flat(base), point, number)
        self._folder = Path(self._plan.settings.ray.storage)
        self._journal = Journal(self._plan.folder)
        self._macs = network_cost(self._plan.settings.model).macs
        self._told, self._last = 0, dict[str, Any]()
        self._training: Future[None] = Future()
        if not self._plan.is_complete or not has_ended(self._journal):
            # Not a daemon: what it does at its end is to be done.
            threading.Thread(
                target=self._train, args=(parent,), name="training", daemon=False
            ).start()
        else:
            self._training.set_result(None)

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch; after the last one for the run's end. Raises what training fails with."""
        while True:
            is_over = self._training.done()
            epochs = reports(self._journal, self._plan.measure.metric_name)
            if self._told < len(epochs):
                self._last = epochs[self._told] | {"gmac": self._macs / 1e9}
                self._told += 1
                return dict(self._last)
            is_stopping = why_stopping(self._folder) is not None
            if is_over and self._has_finished() and (self._is_whole() or not is_stopping):
                return self._last | {"done": True}
            if is_stopping and not is_over:
                Stop(self._plan.folder).ask()
            # The sweep ends Ray Tune next, for which such a trial must not be done: it may go on another time.
            time.sleep(_LOOK_S)

    def cleanup(self) -> None:
        """End the training in good order, if it is still going; its checkpoint and record are complete then."""
        stop = Stop(self._plan.folder)
        while not self._training.done():
            # The training forgets what was asked of the run before it began.
            stop.ask()
            time.sleep(_LOOK_S)
        stop.forget()

    def _is_whole(self) -> bool:
        """Whether it has told of its last epoch."""
        return bool(self._last) and self._last["epoch"] >= self._plan.settings.optim.epochs

    def _has_finished(self) -> bool:
        """Whether the run has come to its end, rather than been interrupted. Raises what it failed with."""
        try:
            self._training.result()
        except InterruptedRunError:
            return False
        return True

    def _train(self, parent: str) -> None:
        try:
            with record_run(self._plan, parent=parent) as record:
                _train_or_conclude(self._plan, record)
        except BaseException as error:
            self._training.set_exception(error)
        else:
            self._training.set_result(None)


def _train_or_conclude(plan: Plan, record: RunRecorder) -> None:
    try:
        train(plan, record, label=plan.settings.ray.name)
    except InterruptedRunError:
        why = why_stopping(Path(plan.settings.ray.storage))
        if why == "":
            raise
        # Ray Tune's scheduler has seen enough of it, or the budget is used up: what it has reached is its result.
        record.journal.tags({STOPPED_TAG: why or "by the rule for early stopping"})
        if best(plan.folder, plan.measure.metric_name) is not None:
            conclude(plan, record.journal)


def why_stopping(folder: Path) -> str | None:
    """Why the sweep in a folder is to stop: empty for an interruption, None if it is to go on."""
    path = folder / STOP_NAME
    return path.read_text() if path.exists() else None


def plan_trial(base: Settings, point: Point, number: str = "") -> Plan:
    """Plan the training of a point; `base.ray.storage` is the sweep's folder."""
    return plan_training(base.replaced(point | {"ray.name": run_name(point, number)}))


def run_name(point: Point, number: str) -> str:
    """Name of a trial's run."""
    return f"{trial_name(point)}_{number}" if number else trial_name(point)


def number_of(trial_id: str, is_grid: bool) -> str:
    """What sets apart trials of drawn points, which may come twice and must not share a run; empty for a grid's."""
    return "" if is_grid else trial_id.rpartition("_")[2]


def point_of(config: Mapping[str, Any]) -> Point:
    """The point that Ray Tune has chosen, as settings take it: some values it draws as NumPy's."""
    return {
        key: value.item() if hasattr(value, "item") else value
        for key, value in config[POINT].items()
    }
