"""MLflow's model registry: best checkpoints as versions of a model, one of them the champion."""

import re
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.tracking.artifacts import download_files
from pipeline.tracking.client import (
    AwayError,
    RefusedError,
    artifact_client,
    message,
    mlflow_client,
)
from pipeline.tracking.links import is_server
from pipeline.tracking.models import DATA, find_model
from pipeline.tracking.runs import Run
from pipeline.tracking.stores import store_at

CHAMPION = "champion"
# A version's tags: its metric, the value, the validation data, and its logged model.
_METRIC, _VALUE, _CHECKSUM, _MODEL = "metric", "value", "data.val.checksum", "model_id"


def register(run: Run, checkpoint: str, name: str, metric: str, value: float, checksum: str) -> str:
    """Register the run's logged model of a checkpoint as a version of `name`; return a message.

    The version becomes the champion if there is none, or if the champion has a lower value of the
    same metric on the validation data with the same `checksum`. Idempotent. Raises AwayError or
    RefusedError.
    """
    with mlflow_client(run.uri) as client:
        model = find_model(client, run, checkpoint)
        if model is None:
            raise AwayError(f"MLflow does not have the logged model {checkpoint} yet")
        _create_name(client, name)
        tags = {_METRIC: metric, _VALUE: repr(value), _CHECKSUM: checksum, _MODEL: model.model_id}
        version = _version(client, name, model.model_id) or client.create_model_version(
            name, _source(run.uri, model), run.run_id, tags=tags, model_id=model.model_id
        )
        champion = _champion(client, name)
        registered = f"registered {checkpoint} as {name} version {version.version}"
        if champion is not None and str(champion.version) != str(version.version):
            kept = f"{registered}; champion stays version {champion.version}"
            if (champion.tags.get(_METRIC), champion.tags.get(_CHECKSUM)) != (metric, checksum):
                return f"{kept}, measured by another metric or on other data"
            if float(champion.tags[_VALUE]) >= value:
                return f"{kept} with {champion.tags[_VALUE]}"
        client.set_registered_model_alias(name, CHAMPION, str(version.version))
        return f"{registered}, the champion"


def download_model(uri: str, model: str, into: Path) -> Path:
    """Download a registered model's checkpoint to `into` or below; return its folder.

    `model` is models:/NAME@ALIAS or models:/NAME/VERSION. Raises ValueError if it is neither,
    AwayError, or RefusedError if it does not exist or was not registered by this pipeline.
    """
    known = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", model)
    if known is None:
        raise ValueError(f"MODEL={model!r}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = known.groups()
    with artifact_client(uri) as client:
        found = (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, version)
        )
        stored = found.tags.get(_MODEL)
        if stored is None:
            raise RefusedError(message(uri, f"{model} was not registered by this pipeline"))
        location = client.get_logged_model(stored).artifact_location
        store = store_at(location, uri)
        folder = into / DATA
        folder.mkdir(parents=True)
        download_files(model, uri, store, DATA, folder, lambda kept: kept)
    return folder


def _create_name(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(client: MlflowClient, name: str, model_id: str) -> ModelVersion | None:
    """Return the version with this logged model."""
    versions = client.search_model_versions(f"name = '{name}'")
    return next((version for version in versions if version.tags.get(_MODEL) == model_id), None)


def _source(uri: str, model: LoggedModel) -> str:
    """Return where the registry finds the model's files."""
    # Without a server MLflow would look for the model's id in the environment's database. A server
    # accepts no locations.
    return f"models:/{model.model_id}" if is_server(uri) else str(model.artifact_location)


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    aliases = client.get_registered_model(name).aliases
    version = aliases.get(CHAMPION)
    return None if version is None else client.get_model_version(name, version)
