"""What a run is, in a few lines of Markdown for people: MLflow shows them above its metrics."""

import shlex

from pipeline.model.cost import Cost
from pipeline.run.plan import Plan
from pipeline.settings import RaySettings, Settings
from pipeline.training.schedule import describe_course

# The tag that MLflow shows as a run's description.
NOTE = "mlflow.note.content"


def describe_run(plan: Plan, cost: Cost, result: str = "") -> str:
    """Describe a run: network, data, recipe, workers, the command that repeats it, and its best score once there is one."""
    parts = [
        _network(plan.settings, cost),
        _data(plan),
        _recipe(plan.settings),
        _workers(plan.settings.ray),
        f"    {command(plan.settings)}",
    ]
    return "\n\n".join(([f"**Best: {result}**"] if result else []) + parts) + "\n"


def command(settings: Settings) -> str:
    """The command line of `jobs.train` with all settings that are not the default; secrets in them are `***`."""
    default, words = Settings().flat(), ["python", "-m", "jobs.train"]
    for key, value in settings.shown().items():
        # The data decide how many joints there are.
        if value != default[key] and key != "model.joints":
            words += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _network(settings: Settings, cost: Cost) -> str:
    model = settings.model
    return (
        f"Stacked hourglass: {model.stacks} x {model.modules} (stacks x modules) of "
        f"{model.features} features, {model.joints} joints, input of {model.input_px} px; "
        f"{cost.parameters:,} parameters, {cost.macs / 1e9:.3g} GMAC an image."
    )


def _data(plan: Plan) -> str:
    return (
        f"Data: {plan.train.source}, joint set {plan.joint_set.name}; {plan.train.people:,} people "
        f"to train on (`{plan.train.checksum:.12}`), {plan.val.people:,} to validate on "
        f"(`{plan.val.checksum:.12}`)."
    )


def _recipe(settings: Settings) -> str:
    optim = settings.optim
    return (
        f"Recipe: {optim.optimizer}, learning rate {describe_course(optim)}; {optim.loss}; "
        f"batches of {optim.batch_size}, {optim.epochs} epochs."
    )


def _workers(ray: RaySettings) -> str:
    gpus = f" and {ray.gpus_per_worker:g} GPUs" if ray.gpus_per_worker else ""
    return f"Workers: {ray.workers}, each with {ray.cpus_per_worker:g} CPUs{gpus}."
