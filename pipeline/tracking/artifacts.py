"""A run's files in MLflow: kept, shown in the UI's image grid, listed and downloaded."""

import tempfile
import uuid
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path, PurePosixPath

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from PIL import Image

from pipeline.io.inside import path_inside
from pipeline.io.text import briefly
from pipeline.tracking.client import RefusedError, artifact_client, message, mlflow_client
from pipeline.tracking.runs import Run
from pipeline.tracking.stores import store_at

# The folder of artifacts that the image grid shows, and the tag by which it knows of them.
_IMAGES, _IMAGES_TAG = "images", "mlflow.loggedImages"
# The grid shows small copies at their size: three runs fit side by side. A click shows the image.
_COPY_PX = (350, 350)


def log_text(run: Run, text: str, path: str) -> None:
    """Keep text as the artifact `path`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PurePosixPath(path).name
        file.write_text(text, encoding="utf-8")
        log_file(run, file, path.rpartition("/")[0])


def log_file(run: Run, file: Path, folder: str) -> None:
    """Keep a file in `folder` of the artifacts."""
    with artifact_client(run.uri, run.run_id):
        _store(run).log_artifact(str(file), folder)


def log_folder(run: Run, folder: Path, path: str) -> None:
    """Keep a folder's files under `path` of the artifacts."""
    with artifact_client(run.uri, run.run_id):
        _store(run).log_artifacts(str(folder), path)


def log_image(run: Run, file: Path, key: str, step: int, time_ms: int) -> None:
    """Show an image in the UI's grid under `key`, at a step and a time in ms since 1970."""
    with artifact_client(run.uri, run.run_id) as client, tempfile.TemporaryDirectory() as folder:
        try:
            lay_out(file, key, step, time_ms, Path(folder))
        except ValueError as error:
            raise RefusedError(str(error)) from error
        _store(run).log_artifacts(folder, _IMAGES)
        client.set_tag(run.run_id, _IMAGES_TAG, "True")


def lay_out(file: Path, key: str, step: int, time_ms: int, folder: Path) -> None:
    """Write an image into `folder` under the two names of `MlflowClient.log_image`, as WebP.

    MLflow's names are random. These depend on the arguments, so an image that is sent twice is
    stored once. Raises ValueError if `file` is no image, and OSError if it can't be read.
    """
    identity = uuid.uuid5(uuid.UUID(int=0), f"{key} {step} {time_ms}")
    name = f"{key}+step+{step}+timestamp+{time_ms}+{identity}"
    try:
        with Image.open(file) as image:
            # Method 0 takes half the CPU time of the default, for a file little larger.
            image.save(folder / f"{name}.webp", method=0)
            image.thumbnail(_COPY_PX)
            image.save(folder / f"{name}+compressed.webp", method=0)
    except (OSError, SyntaxError) as error:
        if getattr(error, "errno", None) is not None:  # an error of the disk
            raise
        raise ValueError(f"{file} is not a picture: {briefly(error)}") from error


def download_folder(
    run: Run, folder: str, into: Path, choose: Callable[[Collection[str]], Collection[str]]
) -> Path:
    """Download the files of a folder of the artifacts that `choose` takes of their names.

    Returns their folder, `into`. Raises AwayError, or RefusedError if the run lacks one.
    """
    with artifact_client(run.uri, run.run_id):
        download_files(f"run {run.run_id}", run.uri, _store(run), folder, into, choose)
    return into


def _store(run: Run) -> ArtifactRepository:
    """Return the store of the run's artifacts. Raises RefusedError as `store_at`."""
    return store_at(_place_of(run), run.uri)


@cache
def _place_of(run: Run) -> str:
    """Return where the run's artifacts are kept, which is asked once: it does not change."""
    with mlflow_client(run.uri) as client:
        place: str = client.get_run(run.run_id).info.artifact_uri
    return place


def download_files(
    owner: str,
    uri: str,
    store: ArtifactRepository,
    folder: str,
    into: Path,
    choose: Callable[[Collection[str]], Collection[str]],
) -> None:
    """Download files of a folder that `owner` has in MLflow at `uri`, as `download_folder`.

    A file gets its name in the store's list, checked, and no path of the store's choice.
    """
    names = [PurePosixPath(f.path).name for f in store.list_artifacts(folder) if not f.is_dir]
    if not names:
        raise RefusedError(message(uri, f"{owner} has no folder {folder}"))
    for name in sorted(choose(names)):
        if name not in names:
            raise RefusedError(message(uri, f"{owner} has no file {folder}/{name}"))
        try:
            target = path_inside(into, name)
        except ValueError as error:
            raise RefusedError(message(uri, error)) from None
        # `download_artifacts` would ask the server again what is a folder, and what is in it.
        store._download_file(f"{folder}/{name}", str(target))
