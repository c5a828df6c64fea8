"""A trial: a training run under the sweep's MLflow run that reports each epoch to Ray Tune."""

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
from pipeline.run.ownership import Owner, Writer
from pipeline.run.plan import Plan, plan_training
from pipeline.settings import Settings
from pipeline.tracking.recording import InterruptedRunError, RunRecorder, record_run
from pipeline.tracking.summary import conclude
from tune.epochs import STOPPED_TAG, has_finished, is_whole, reports
from tune.spaces import Point, trial_name

# Ray Tune's only parameter is the whole point: settings that only fit together stay together.
POINT = "point"
_LOOK_S = 0.2


class Trial(ray.tune.Trainable):
    """A training in a thread; each of Ray Tune's steps waits for an epoch in the run's journal.

    Ray Tune keeps no checkpoint. A restarted trial, on whatever node, resumes
    from the run's own checkpoints. It reports all epochs from the first again,
    for a scheduler that has lost the last ones. Repeated reports change nothing.
    """

    def setup(
        self,
        config: dict[str, Any],
        *,
        base: dict[str, Any],
        parent: str,
        is_grid: bool,
        owner: dict[str, Any],
        folder: str,
    ) -> None:
        """Start or resume.

        `base` are settings by dotted key, `parent` is the sweep's name, `owner` has the fields of
        its `Owner`, and `folder` is where it finds its trials. Raises SupersededError if another
        start owns the sweep.
        """
        point, number = point_of(config), number_of(self.trial_id, is_grid)
        self._plan = plan_trial(Settings.from_flat(base), point, number)
        self._folder = self._plan.storage
        if self._folder != Path(folder):
            raise ValueError(
                f"ray.scratch must be given, since trials would keep their files in {self._folder} "
                f"and the sweep looks for them in {folder}"
            )
        Writer(self._folder, Owner(**owner)).check()
        self._journal = Journal(self._plan.folder)
        self._macs = network_cost(self._plan.settings.model).macs
        self._reported, self._last = 0, dict[str, Any]()
        self._training: Future[None] = Future()
        if not self._plan.is_complete or not has_finished(self._journal):
            # Not a daemon: the process must wait for the end of the training.
            threading.Thread(
                target=self._train, args=(parent,), name="training", daemon=False
            ).start()
        else:
            self._training.set_result(None)

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch, or after the last one for the run's end, and report it.

        Raises the error that training fails with.
        """
        while True:
            is_over = self._training.done()
            epochs = reports(self._journal, self._plan.measure.metric_name)
            if self._reported < len(epochs):
                self._last = epochs[self._reported] | {"gmac": self._macs / 1e9}
                self._reported += 1
                return dict(self._last)
            is_stopping = why_stopping(self._folder) is not None
            has_all = is_whole(self._last, self._plan.settings.optim)
            if is_over and self._has_finished() and (has_all or not is_stopping):
                return self._last | {"done": True}
            if is_stopping and not is_over:
                Stop(self._plan.folder).ask()
            # A trial that stops with the sweep must not be done: it may resume another time. So
            # it waits here for the sweep to end Ray Tune.
            time.sleep(_LOOK_S)

    def cleanup(self) -> None:
        """Stop the training if it runs, and wait until its checkpoint and records are complete."""
        stop = Stop(self._plan.folder)
        while not self._training.done():
            # Repeated, because a training that starts discards earlier requests.
            stop.ask()
            time.sleep(_LOOK_S)
        stop.forget()

    def _has_finished(self) -> bool:
        """Tell whether the training finished rather than was interrupted. Raises its error."""
        try:
            self._training.result()
        except InterruptedRunError:
            return False
        return True

    def _train(self, parent: str) -> None:
        try:
            # The sweep has one owner. So the trial's former process was lost, or soon ends.
            with record_run(self._plan, parent=parent, take_over=True) as record:
                _train_or_conclude(self._plan, record)
        except BaseException as error:
            self._training.set_exception(error)
        else:
            self._training.set_result(None)


def _train_or_conclude(plan: Plan, record: RunRecorder) -> None:
    try:
        train(plan, record, label=plan.settings.ray.name)
        conclude(plan, record.journal)
    except InterruptedRunError:
        why = why_stopping(plan.storage)
        if why == "":
            raise
        # Stopped for good, by the scheduler or the budget: the best so far is the result.
        done = reports(record.journal, plan.measure.metric_name)
        if not is_whole(done[-1] if done else {}, plan.settings.optim):
            record.journal.tags({STOPPED_TAG: why or "by the rule for early stopping"})
        if best(plan.folder, plan.measure.metric_name) is not None:
            conclude(plan, record.journal)


def why_stopping(folder: Path) -> str | None:
    """Return why the sweep in a folder is to stop; empty if interrupted, None if it is not."""
    path = folder / STOP_NAME
    return path.read_text() if path.exists() else None


def plan_trial(base: Settings, point: Point, number: str = "") -> Plan:
    """Plan the training of a point; `base.ray.storage` is the sweep's folder."""
    return plan_training(base.replaced(point | {"ray.name": run_name(point, number)}))


def run_name(point: Point, number: str) -> str:
    """Name a trial's run."""
    return f"{trial_name(point)}_{number}" if number else trial_name(point)


def number_of(trial_id: str, is_grid: bool) -> str:
    """Return the number of a drawn trial; empty in a grid.

    The same point may be drawn twice, and each trial needs a run of its own.
    """
    return "" if is_grid else trial_id.rpartition("_")[2]


def point_of(config: Mapping[str, Any]) -> Point:
    """Return the point that Ray Tune has chosen, with NumPy's numbers turned into Python's."""
    return {
        key: value.item() if hasattr(value, "item") else value
        for key, value in config[POINT].items()
    }
