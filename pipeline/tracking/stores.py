"""Stores of artifacts at the places that an MLflow server names."""

from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from mlflow.entities import LoggedModel
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from pipeline.tracking.client import RefusedError, has_credentials, message

# Schemes of stores by HTTP, whose requests get the password or token of the tracking server.
_SERVERS = ("http", "https", "mlflow-artifacts")
# The others that are used. MLflow has some without bounds on time and size, as those by FTP.
_SCHEMES = (*_SERVERS, "", "file", "s3", "r2", "b2", "gs", "wasbs", "abfss")
_PORTS = {"http": 80, "https": 443}


def store_at(location: str, uri: str) -> ArtifactRepository:
    """Return the store of artifacts at `location`, which MLflow at `uri` has named.

    Raises RefusedError if it is of another kind than those used, or a server other than that at
    `uri` that would get its password or token.
    """
    place, tracking = urlsplit(location), urlsplit(uri)
    if place.scheme not in _SCHEMES:
        expected = ", ".join(f"{scheme}:" for scheme in _SCHEMES if scheme)
        raise RefusedError(
            message(uri, f"a store of artifacts at {location}, expected a folder or {expected}")
        )
    # Without a host it is the tracking server.
    is_server = place.scheme in _SERVERS and bool(place.netloc)
    if is_server and _host(place, tracking) != _host(tracking, tracking) and has_credentials(uri):
        raise RefusedError(
            message(
                uri,
                f"the store of artifacts {location} is another server, which would get the "
                "password or token for this one",
            )
        )
    return get_artifact_repository(location, tracking_uri=uri)


def remove_model(model: LoggedModel, uri: str) -> None:
    """Remove the files of a logged model, which MLflow at `uri` has named.

    Raises RefusedError if they lie in a folder of this machine that is not the model's.
    """
    store = store_at(model.artifact_location, uri)
    if isinstance(store, LocalArtifactRepository):
        folder = Path(store.artifact_dir)
        if not folder.exists():
            return
        if not _is_of(folder, model):
            raise RefusedError(
                message(uri, f"{folder} is not the folder of model {model.model_id}: not removed")
            )
    store.delete_artifacts()


def _is_of(folder: Path, model: LoggedModel) -> bool:
    """Whether a folder has the files of a logged model, by what it states of itself."""
    try:
        lines = (folder / "MLmodel").read_text().splitlines()
    except OSError:
        return False
    return not folder.is_symlink() and f"model_id: {model.model_id}" in lines


def _host(place: SplitResult, tracking: SplitResult) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port of a server; `mlflow-artifacts:` has the tracking server's."""
    scheme = tracking.scheme if place.scheme == "mlflow-artifacts" else place.scheme
    return scheme, place.hostname, place.port or _PORTS.get(scheme)
