"""Checkpoints as MLflow's logged models, which `mlflow.pyfunc.load_model` loads."""

import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.metadata import packages_distributions, version
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema

from pipeline.data.shards.crop import cut_crop
from pipeline.data.synthetic.scene import render_scene
from pipeline.inference.pyfunc import BOX, FRAME, IMAGE, columns_of
from pipeline.io.installation import PACKAGE, import_path
from pipeline.pose.joint_sets import JointSet
from pipeline.run.checkpoint import OPTIMIZER_NAME
from pipeline.run.metadata import read_metadata
from pipeline.settings.packing import CropSettings
from pipeline.tracking.client import artifact_client, machine_lock
from pipeline.tracking.runs import Point, Run
from pipeline.tracking.stores import remove_model, store_at

_LOADER = columns_of.__module__
# The checkpoint's folder in a model. MLflow puts a model's data below `data`.
CHECKPOINT = "checkpoint"
DATA = f"data/{CHECKPOINT}"
_PACKAGE = _LOADER.partition(".")[0]
# It reads the lists of files of all that is installed, which takes longer than all of the rest.
_distributions = cache(packages_distributions)


with warnings.catch_warnings():
    # MLflow warns of its own types.
    warnings.filterwarnings("ignore", ".*Any type hint")
    import mlflow.pyfunc


def log_model(run: Run, checkpoint: Path, step: int, points: Sequence[Point]) -> None:
    """Keep a checkpoint as a logged model of the run, with its folder's name and metrics `points`.

    The model has what prediction needs: weights, metadata, code, signature and an example. It lacks
    the optimizer's state. Idempotent. Raises AwayError or RefusedError.
    """
    name = checkpoint.name
    with (
        artifact_client(run.uri, run.run_id) as client,
        machine_lock(f"{run.uri} {run.run_id} {name}"),
    ):
        model = find_model(client, run, name) or client.create_logged_model(
            run.experiment_id, name, run.run_id, model_type="checkpoint"
        )
        if model.status != LoggedModelStatus.READY:
            with tempfile.TemporaryDirectory() as place:
                _save(checkpoint, Path(place), run, model.model_id)
                store_at(model.artifact_location, run.uri).log_artifacts(str(Path(place) / "model"))
            client.finalize_logged_model(model.model_id, "READY")
        outputs = client.get_run(run.run_id).outputs
        if not outputs or model.model_id not in {o.model_id for o in outputs.model_outputs}:
            client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step)])
        # The run has these rows. Now they also belong to the model.
        metrics = [
            Metric(p.name, p.value, p.time_ms, p.step, model_id=model.model_id, run_id=run.run_id)
            for p in points
        ]
        client.log_batch(run.run_id, metrics=metrics)


def forget_model(run: Run, name: str) -> None:
    """Remove a logged model of the run and its files, if the run has one of that name.

    Raises AwayError or RefusedError.
    """
    with (
        artifact_client(run.uri, run.run_id) as client,
        machine_lock(f"{run.uri} {run.run_id} {name}"),
    ):
        model = find_model(client, run, name)
        if model is not None:
            # MLflow only hides a deleted model: its files would stay until `mlflow gc`. They go
            # first, since they could not be found without the model.
            remove_model(model, run.uri)
            client.delete_logged_model(model.model_id)


def find_model(client: MlflowClient, run: Run, name: str) -> LoggedModel | None:
    """Return the run's logged model of a name, unless it was removed."""
    condition = f"name = '{name}' AND source_run_id = '{run.run_id}'"
    found = client.search_logged_models([run.experiment_id], condition, max_results=1)
    return found[0] if found else None


def _save(checkpoint: Path, place: Path, run: Run, model_id: str) -> None:
    """Write the model's files into the folder `model` of `place`."""
    data = place / CHECKPOINT
    data.mkdir()
    for file in checkpoint.iterdir():
        if file.name != OPTIMIZER_NAME:
            (data / file.name).symlink_to(file.absolute())
    code, requirements = bundle(_LOADER, place)
    mlflow.pyfunc.save_model(
        place / "model",
        mlflow_model=Model(run_id=run.run_id, model_id=model_id),
        loader_module=_LOADER,
        data_path=str(data),
        code_paths=[str(code)],
        signature=_signature(read_metadata(checkpoint).joint_set),
        input_example=example(),
        pip_requirements=requirements,
    )


def _signature(joint_set: JointSet) -> ModelSignature:
    places = [ColSpec("double", name, required=False) for name in (*BOX, *FRAME)]
    return ModelSignature(
        inputs=Schema([ColSpec("binary", IMAGE), *places]),
        outputs=Schema([ColSpec("double", name) for name in columns_of(joint_set)]),
    )


def example() -> pd.DataFrame:
    """Return a table for `ServedModel.predict` with one image, which its person fills."""
    image, people = render_scene(seed=0, index=0)
    crop = cut_crop(np.asarray(image), people[0], CropSettings(margin=1.0))
    return pd.DataFrame({IMAGE: [crop.jpeg]})


class _PackageFinder(ModuleFinder):
    """A finder that follows imports within the package alone."""

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        """Find a module as usual, unless it is outside the package."""
        # Without a path it is a module at the top.
        if path is None and name != _PACKAGE:
            raise ImportError(name)
        return super().find_module(name, path, parent)


def bundle(module: str, into: Path) -> tuple[Path, list[str]]:
    """Copy `module`, and the modules of the package that it needs, into a folder.

    Returns the package's folder there, and pip's requirements: the outside libraries that the
    modules import and that are installed here, with their versions.
    """
    finder = _PackageFinder([str(import_path())], excludes=[f"{PACKAGE}.api"])
    finder.import_hook(module)
    # The types of the standard library's stubs lack `__file__`, which is None for built-in modules.
    for file in filter(None, [vars(found)["__file__"] for found in finder.modules.values()]):
        copy = into / Path(file).relative_to(import_path())
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    outside = {name.partition(".")[0] for name in finder.badmodules}
    known = _distributions()
    # Those of extras, as pillow-heif, may not be installed.
    needed = (outside - sys.stdlib_module_names - {_PACKAGE, PACKAGE}) & set(known)
    names = {known[name][0] for name in needed}
    # No index has local versions, such as torch's +cpu.
    requirements = [f"{name}=={version(name).partition('+')[0]}" for name in sorted(names)]
    return into / _PACKAGE, requirements
