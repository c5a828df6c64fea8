"""A training run as MLflow shows it: name, parameters, tags, and a description in Markdown."""

import shlex
from pathlib import Path

from pipeline.io import installation
from pipeline.io.location import is_store
from pipeline.model.cost import Cost, network_cost
from pipeline.run.changes import listed
from pipeline.run.journal import RunSpec
from pipeline.run.plan import Plan, is_submitted, working_root
from pipeline.run.provenance import origin
from pipeline.settings import Settings
from pipeline.settings.config_file import option_words
from pipeline.training.schedule import describe_course

# MLflow's tag of a run's description.
NOTE = "mlflow.note.content"


def run_spec(plan: Plan, parent: str = "") -> RunSpec:
    """Return what the journal records at the start of the plan's run, nested under `parent`."""
    settings, cost = plan.settings, network_cost(plan.settings.model)
    return RunSpec(
        uri=settings.tracking.uri,
        experiment=settings.tracking.experiment,
        name=settings.ray.name,
        params=settings.shown(),
        tags={
            "joint_set": plan.joint_set.name,
            "source": plan.train.source,
            "data.train.checksum": plan.train.checksum,
            "data.val.checksum": plan.val.checksum,
            "parameters": str(cost.parameters),
            "gmacs": f"{cost.macs / 1e9:.3g}",
            NOTE: describe_run(plan, cost),
            **({"start": plan.start.lines[0]} if plan.start else {}),
            **({"changed": listed(plan.changes)} if plan.changes and not plan.restarts else {}),
            **source_tags("tune.sweep" if parent else "jobs.train"),
            **origin(),
        },
        artifacts=artifact_folder(settings.ray.storage),
        parent=parent,
        scores=plan.measure.metric_names,
        datasets=datasets_of(plan),
    )


def source_tags(command: str) -> dict[str, str]:
    """Return the tags that MLflow shows as the source of a run."""
    kind = "JOB" if is_submitted() else "LOCAL"
    return {"mlflow.source.name": command, "mlflow.source.type": kind}


def datasets_of(plan: Plan) -> list[dict[str, str]]:
    """Describe the plan's training and validation data for MLflow.

    The name has the split, since MLflow keeps one dataset of equal name and digest for a run.
    """
    data = plan.settings.data
    splits = (("train", "training", data.train), ("val", "validation", data.val))
    return [
        {
            "name": f"{shards.source}-{split}",
            "digest": f"{shards.checksum:.12}",
            "source": pattern,
            "people": str(shards.people),
            "context": context,
        }
        for (split, context, pattern), shards in zip(splits, (plan.train, plan.val), strict=True)
    ]


def artifact_folder(storage: str) -> Path:
    """Return the folder for artifacts of a new experiment, unless a server has them.

    It lies beside the runs, those in a bucket excepted.
    """
    return (working_root() if is_store(storage) else Path(storage).parent) / "mlruns"


def describe_run(plan: Plan, cost: Cost, result: str = "") -> str:
    """Describe a run: `result` if any, command, network, data, recipe and workers.

    The end is cut off if it is too long for MLflow.
    """
    parts = [f"    {command(plan.settings)}", *paragraphs(plan, cost)]
    return "\n\n".join(([f"**Best: {result}**"] if result else []) + parts) + "\n"


def paragraphs(plan: Plan, cost: Cost) -> list[str]:
    """Describe a run's network, data, recipe and workers."""
    model, optim, ray = plan.settings.model, plan.settings.optim, plan.settings.ray
    cpus = f"{ray.cpus_per_worker or 1:g}"
    if ray.gpus_per_worker and not ray.cpus_per_worker:
        cpus = "its GPU's share of"
    gpus = f" and {ray.gpus_per_worker:g} GPUs" if ray.gpus_per_worker else ""
    return [
        f"Stacked hourglass: {model.stacks} x {model.modules} (stacks x modules) of "
        f"{model.features} features, {model.joints} joints, input of {model.input_px} px; "
        f"{cost.parameters:,} parameters, {cost.macs / 1e9:.3g} GMAC per image.",
        f"Data: {plan.train.source}, joint set {plan.joint_set.name}; {plan.train.people:,} people "
        f"to train on (`{plan.train.checksum:.12}`), {plan.val.people:,} to validate on "
        f"(`{plan.val.checksum:.12}`).",
        f"Recipe: {optim.optimizer}, learning rate {describe_course(optim)}; {optim.loss}; "
        f"batches of {optim.batch_size}, {optim.epochs} epochs.",
        f"Workers: {ray.workers}, each with {cpus} CPUs{gpus}.",
    ]


def command(settings: Settings) -> str:
    """Return the command line of `jobs.train` that repeats a run, with `***` for secrets."""
    # The data determine the number of joints.
    words = option_words(settings, {"model.joints"})
    return shlex.join([*installation.command("jobs.train"), *words])
