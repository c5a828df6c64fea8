"""Runs of a sweep that were not trained: networks of its trials, cut to fewer stacks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.io.console import say
from pipeline.run.checkpoint_manager import best, enter_models
from pipeline.run.cut import cut_checkpoint, metric_of_stack, metrics_of_stack
from pipeline.run.journal import Journal
from pipeline.run.plan import Plan
from pipeline.tracking.recording import record_run
from pipeline.tracking.summary import conclude, end_of
from pipeline.training.metrics import with_glance
from tune.epochs import CUT_TAG, has_finished
from tune.plan import Sweep
from tune.trial import plan_trial, run_name

# Metrics of the training that hold for a cut network too.
_SHARED = ("epoch", "samples", "learning_rate")


def record_cuts(sweep: Sweep) -> dict[str, str]:
    """Record a run for each of the sweep's cuts, from the run of the trial that it is cut from.

    Runs that have all epochs already stay as they are, so that it may be repeated. A damaged run
    must not fail the sweep: returns the errors of cuts that failed, by name.
    """
    errors: dict[str, str] = {}
    wholes: dict[str, Plan] = {}
    for cut in sweep.cuts:
        name, whole = run_name(cut.point, ""), run_name(cut.whole, "")
        try:
            if whole not in wholes:
                wholes[whole] = plan_trial(sweep.base, cut.whole)
            plan = plan_trial(sweep.base, cut.point)
            if _is_behind(plan, wholes[whole]):
                _record(plan, wholes[whole], sweep.name)
        except (ValueError, OSError) as error:
            errors[name] = f"not cut from {whole}: {error}"
            say(f"{name}: {errors[name]}")
    return errors


def _is_behind(plan: Plan, whole: Plan) -> bool:
    """Whether the run of a cut network lacks something of the whole one's."""
    journal, metric = Journal(plan.folder), plan.measure.metric_name
    done = journal.history([metric])[metric]
    there = [step for step, _ in _epochs(whole, plan.settings.model.stacks)]
    return bool(there) and not (has_finished(journal) and len(done) == len(there))


def _record(plan: Plan, whole: Plan, parent: str) -> None:
    stacks, metric = plan.settings.model.stacks, plan.measure.metric_name
    found = best(whole.folder, metric_of_stack(stacks, metric))
    if found is None:
        raise ValueError(f"{whole.folder}: no checkpoint has {metric_of_stack(stacks, metric)}")
    # The sweep has one owner.
    with record_run(plan, parent=parent, take_over=True) as record:
        record.begin()
        record.journal.tags({CUT_TAG: whole.settings.ray.name})
        checkpoint = plan.folder / found[0].name
        if not checkpoint.exists():
            with tempfile.TemporaryDirectory(dir=plan.folder, prefix=".cutting-") as place:
                cut_checkpoint(found[0], stacks, Path(place)).rename(checkpoint)
        for step, values in _epochs(whole, stacks):
            record.journal.metrics(with_glance(plan.measure, values), step)
        enter_models(record.journal, plan.folder, metric, plan.settings.tracking.models)
        # A cut's own curve did not end the training.
        conclude(plan, record.journal, end_of(whole, Journal(whole.folder)))


def _epochs(whole: Plan, stacks: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield each epoch of a run with the metrics of its network cut to `stacks` stacks."""
    for entry in Journal(whole.folder).entries():
        values = entry.content["values"] if entry.kind == "metrics" else {}
        own = metrics_of_stack(values, stacks)
        if own:
            yield entry.content["step"], {name: values[name] for name in _SHARED} | own
