"""Checkpoints as MLflow's logged models, each of which `mlflow.pyfunc.load_model` loads: kept, found again by name, removed."""

import ast
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import ColSpec, Schema

from pipeline.data.shards.crop import cut_crop
from pipeline.data.synthetic.scene import render_scene
from pipeline.inference.pyfunc import BOX, FRAME, IMAGE, columns_of
from pipeline.pose.joint_sets import JointSet
from pipeline.run.checkpoint import OPTIMIZER_NAME
from pipeline.run.metadata import read_metadata
from pipeline.settings.packing import CropSettings
from pipeline.tracking.client import artifact_errors, client_of, machine_lock
from pipeline.tracking.runs import Point, Run

_LOADER = "pipeline.inference.pyfunc"
# The checkpoint's folder beside a model's description; MLflow puts what is given as data below `data`.
CHECKPOINT = "checkpoint"
DATA = f"data/{CHECKPOINT}"
_ROOT = Path(__file__).parents[2]
_PACKAGE = "pipeline"


with warnings.catch_warnings():
    # Of MLflow's own types.
    warnings.filterwarnings("ignore", ".*Any type hint")
    import mlflow.pyfunc


def log_model(run: Run, checkpoint: Path, step: int, points: Sequence[Point]) -> None:
    """Keep a checkpoint as a logged model of the run, by its folder's name, with the metrics `points`.

    It holds what prediction needs: weights, record, code, signature and an
    example; not what training needs to go on. What MLflow has already is not
    there twice afterwards. Raises AwayError or RefusedError.
    """
    name = checkpoint.name
    with artifact_errors(run.uri), machine_lock(f"{run.uri} {run.run_id} {name}"):
        client = client_of(run.uri)
        model = find_model(client, run, name) or client.create_logged_model(
            run.experiment_id, name, run.run_id, model_type="checkpoint"
        )
        if model.status != LoggedModelStatus.READY:
            with tempfile.TemporaryDirectory() as place:
                _save(checkpoint, Path(place), run, model.model_id)
                client.log_model_artifacts(model.model_id, str(Path(place) / "model"))
            client.finalize_logged_model(model.model_id, "READY")
        outputs = client.get_run(run.run_id).outputs
        if model.model_id not in [o.model_id for o in (outputs.model_outputs if outputs else [])]:
            client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step)])
        # Rows of the run, which it has already, that are now the model's too.
        metrics = [
            Metric(p.name, p.value, p.time_ms, p.step, model_id=model.model_id, run_id=run.run_id)
            for p in points
        ]
        client.log_batch(run.run_id, metrics=metrics)


def forget_model(run: Run, name: str) -> None:
    """Remove a logged model of the run and its files, if there is one of that name. Raises AwayError or RefusedError."""
    with artifact_errors(run.uri), machine_lock(f"{run.uri} {run.run_id} {name}"):
        client = client_of(run.uri)
        model = find_model(client, run, name)
        if model is not None:
            # MLflow only hides what it deletes: the files would stay until its `gc`. They go first,
            # since they could not be found again without the model.
            get_artifact_repository(
                model.artifact_location, tracking_uri=run.uri
            ).delete_artifacts()
            client.delete_logged_model(model.model_id)


def find_model(client: MlflowClient, run: Run, name: str) -> LoggedModel | None:
    """The run's logged model of a name, unless it was removed."""
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
    """A table for `ServedModel.predict` with one image, which its person fills."""
    image, people = render_scene(seed=0, index=0)
    crop = cut_crop(np.asarray(image), people[0], CropSettings(margin=1.0))
    return pd.DataFrame({IMAGE: [crop.jpeg]})


def bundle(module: str, into: Path) -> tuple[Path, list[str]]:
    """Copy `module`, and all of the package that it imports, into a folder.

    Returns the package's folder there, and the installed versions of the
    outside libraries that it imports, as pip takes them.
    """
    files, outside = _needed(module)
    for file in files:
        copy = into / file.relative_to(_ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    known = packages_distributions()
    names = sorted({known[name][0] for name in outside})
    # A local version, such as torch's +cpu, is on no index.
    return into / _PACKAGE, [f"{name}=={version(name).partition('+')[0]}" for name in names]


def _needed(module: str) -> tuple[set[Path], set[str]]:
    """Files of the package, and names of outside libraries, that `module` imports in the end."""
    files, outside, todo = set[Path](), set[str](), [_PACKAGE, module]
    while todo:
        file = _file_of(todo.pop())
        if file is None or file in files:
            continue
        files.add(file)
        for name in _imported(file):
            top = name.partition(".")[0]
            if top == _PACKAGE:
                todo += [name, name.rpartition(".")[0]]
            elif top not in sys.stdlib_module_names:
                outside.add(top)
    return files, outside


def _imported(file: Path) -> Iterator[str]:
    """Modules that a file imports, and what it takes from them, which may be modules too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "the house has no relative imports"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file_of(name: str) -> Path | None:
    place = _ROOT / name.replace(".", "/")
    found = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in found if file.is_file()), None)
