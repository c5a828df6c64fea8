"""Train a stacked hourglass network on the Ray cluster: `python -m jobs.train --help`."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.io.console import amount, say, say_text
from pipeline.io.interruption import status
from pipeline.settings import Settings
from pipeline.settings.cli import TrainingArguments, clear_errors, fail, given_settings, parse
from pipeline.tracking.reuse import settings_of_config

if TYPE_CHECKING:
    from pipeline.run.plan import Plan
    from pipeline.tracking.summary import Outcome


@dataclass(frozen=True, kw_only=True)
class Arguments(TrainingArguments):
    """Train a stacked hourglass network with DDP over Ray workers, recorded in MLflow."""

    dry_run: bool = False
    """Print the resolved settings, the network's cost and the size of the data, and exit. Without
    data only the cost."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(
        Arguments, None, argv, Arguments(settings=given_settings(argv, settings_of_config))
    )
    with clear_errors("the same command resumes the run"):
        arguments.save()
        if arguments.dry_run:
            dry_run(arguments.settings)
        else:
            run(arguments.settings)


def dry_run(settings: Settings) -> None:
    """Print what training would do. Raises ValueError if it could not start."""
    from pipeline.pose.joint_sets import MPII
    from pipeline.run.plan import plan_training
    from pipeline.tracking.lookup import with_start

    if settings.data.train or settings.data.val:
        plan = plan_training(with_start(settings))
        _say_settings(plan.settings)
        describe(plan)
    else:
        joints = settings.model.joints or len(MPII.joints)
        settings = settings.replaced({"model.joints": joints})
        _say_settings(settings)
        _say_course(settings)
        say(f"no data given: assuming {joints} joints; only the settings were checked")
        _say_cost(settings)


def run(settings: Settings) -> None:
    """Train. Raises ValueError, before it starts a cluster, if the input is wrong."""
    from pipeline.training.probes import note_startup

    note_startup("called")
    plan = planned(settings)
    note_startup("planned")
    train_plan(plan)


def planned(settings: Settings) -> "Plan":
    """Check settings and data, print what will be trained, and return the plan.

    Raises ValueError, or ConnectionError if the cluster that is named does not answer.
    """
    from pipeline.cluster.address import check_answer

    check_answer(settings.ray.address)
    from pipeline.run.plan import plan_training
    from pipeline.tracking.lookup import with_start

    plan = plan_training(with_start(settings))
    describe(plan)
    return plan


def _say_settings(settings: Settings) -> None:
    for key, value in settings.flat().items():
        say(f"  {key} = {value!r}")


def _say_cost(settings: Settings) -> None:
    import torch

    from pipeline.model.cost import network_cost, training_bytes

    cost = network_cost(settings.model)
    at_once = math.ceil(
        settings.optim.batch_size / settings.ray.fewest_workers / settings.optim.accumulate
    )
    say(f"parameters: {cost.parameters:,}")
    say(
        f"GFLOPs: {amount(2 * cost.macs / 1e9)} forward, "
        f"{amount(cost.training_flops / 1e9)} training, an image"
    )
    fp32, bf16 = (
        training_bytes(settings.model, at_once, dtype, forgetful=settings.optim.checkpointing)
        for dtype in (torch.float32, torch.bfloat16)
    )
    say(
        f"memory: about {amount(fp32 / 2**30)} GiB a worker in fp32, "
        f"{amount(bf16 / 2**30)} GiB in bf16, at {at_once} samples at once"
        + ", with activation checkpointing"
        * settings.optim.checkpointing
    )


def _say_course(settings: Settings) -> None:
    from pipeline.training.schedule import describe_course

    say(f"learning rate: {describe_course(settings.optim)}")


def describe(plan: "Plan") -> None:
    """Print the network's cost, the data and the schedule."""
    from pipeline.data.augmentation import reach
    from pipeline.data.measurable import measurable
    from pipeline.run.changes import listed

    settings = plan.settings
    _say_cost(settings)
    for name, shards in (("train", plan.train), ("val", plan.val)):
        say(
            f"{name}: {shards.people:,} people in {len(shards.paths)} shards, joint set "
            f"{shards.joint_set.name}, source {shards.source}"
        )
    if note := measurable(plan.val, plan.measure).note(plan.joint_set):
        say(f"note: {note}")
    steps, left = divmod(plan.train.people, settings.optim.batch_size)
    dropped = f"; {left} people are dropped each epoch (incomplete batch)" if left else ""
    say(f"epoch: {steps:,} steps of {settings.optim.batch_size}{dropped}")
    _say_course(settings)
    if plan.start and not plan.resumes:
        for line in plan.start.lines:
            say(f"start: {line}")
    wanted = reach(settings.data)
    if plan.train.margin < wanted:
        say(
            f"note: augmentation reaches a margin of {wanted:.2f}, but crops were packed with "
            f"{plan.train.margin:g}: corners may be black where the photograph had pixels; "
            f"pack with --crop.margin {math.ceil(100 * wanted) / 100:g}"
        )
    if plan.changes:
        say(
            f"run {settings.ray.name} {'starts over' if plan.restarts else 'resumes'} with other "
            f"settings or data than before: {listed(plan.changes)}"
        )
    if plan.is_complete and (done := plan.resumes):
        optim, epochs, since = settings.optim, done.progress.epochs, done.plateau.epochs_since
        longer = "more --optim.epochs" if epochs >= optim.epochs else "a higher --optim.stop-after"
        say(
            f"run {settings.ray.name} is complete: it ended "
            f"{optim.describe_end(plan.measure.headline, epochs, since)}; use {longer} to train "
            "longer, or another --ray.name to start over"
        )


def train_plan(plan: "Plan") -> "Outcome":
    """Train on the plan's cluster, record the run, and print the results.

    Exits with status 1 if training fails, and with that of the signal if one stops it.
    """
    from pipeline.cluster.launch import TrainingFailedError
    from pipeline.run.ownership import SupersededError
    from pipeline.tracking.recording import InterruptedRunError

    settings = plan.settings
    try:
        return trained(plan)
    except SupersededError as error:
        fail(str(error))
    except TrainingFailedError as error:
        fail(f"training run {settings.ray.name} failed: {error}")
    except InterruptedRunError as stopped:
        fail(f"training run {settings.ray.name} {stopped}", status())


def trained(plan: "Plan") -> "Outcome":
    """Train on the plan's cluster, record the run, and print the results. Raises as `train`."""
    from pipeline.cluster.launch import train
    from pipeline.cluster.start import cluster
    from pipeline.tracking.recording import record_run

    settings = plan.settings
    say(f"training run {settings.ray.name} with {settings.ray.workers} workers")
    # MLflow is contacted while the cluster starts, and before resources are taken.
    with record_run(plan) as record:
        with cluster(settings.ray.address):
            train(plan, record)
            # The record has loaded this, with MLflow and matplotlib, while the cluster started.
            from pipeline.tracking.summary import conclude

            outcome = conclude(plan, record.journal)
        # Closing the record afterwards reports what MLflow lacks.
        _say_outcome(plan, outcome)
        return outcome


def _say_outcome(plan: "Plan", outcome: "Outcome") -> None:
    """Print the scores, the best checkpoint, and the run's page in MLflow."""
    from pipeline.evaluation.metrics import table
    from pipeline.run.storage import shown
    from pipeline.tracking.links import how_to_open, recorded_runs, run_page, shown_folder

    settings = plan.settings
    say_text(f"\n{table(outcome.scores[plan.measure.key])}")
    for scores in outcome.scores.values():
        if scores.measure != plan.measure:
            kind = " (pooled)" if scores.measure.is_of_joints else ""
            say(f"{scores.measure.headline}{kind}: {scores.headline:.2f}")
    say_text(f"\nbest checkpoint: {shown(outcome.checkpoint)} (epoch {outcome.epoch})")
    say(f"MLflow run {settings.ray.name} in experiment {settings.tracking.experiment}; to open it:")
    page = "".join(map(run_page, recorded_runs([plan.folder])))
    say(f"  {how_to_open(settings.tracking.uri, page, [shown_folder(plan.folder)])}")


if __name__ == "__main__":
    main()
