"""Finds the run or model that a user names: a folder, a name, or one in MLflow."""

import hashlib
import shlex
import tempfile
from collections.abc import Collection
from pathlib import Path

from pipeline.evaluation.comparison import ComparedRun
from pipeline.evaluation.per_person import PEOPLE_NAME, read_results
from pipeline.io.installation import command
from pipeline.io.location import is_store
from pipeline.io.redaction import redacted
from pipeline.run.checkpoint import OPTIMIZER_NAME, check_file
from pipeline.run.checkpoint_manager import BEST_CHECKPOINT
from pipeline.run.metadata import METADATA_NAME, read_metadata
from pipeline.run.plan import resolved_storage, tracking_uri
from pipeline.run.start import find_local
from pipeline.run.storage import local_storage, publish
from pipeline.settings import Settings
from pipeline.tracking.sync_state import SyncPosition, write_position

# Folder of the storage with downloaded checkpoints that runs start from.
STARTS = ".starts"
# Prefix of URIs in MLflow's registry.
REGISTERED = "models:/"
# Seconds within which a server has to answer.
_REACH_S = 8.0
# Files of a checkpoint that a comparison reads.
COMPARED = (METADATA_NAME, PEOPLE_NAME)


def find_checkpoint(
    model: str,
    storage: str,
    uri: str,
    into: Path,
    *,
    argument: str = "MODEL",
    files: Collection[str] = (),
) -> Path:
    """Return the checkpoint that `model` names: local, a registered model's, or an MLflow run's.

    `find_local` comes first, in `storage` as `ray.storage`; if `files` are named, it brings no
    weights from a bucket.
    `models:/NAME@ALIAS` and `models:/NAME/VERSION` are looked up in MLflow, and so are runs if
    `uri` is given, and downloaded to `into`: `files`, or if there are none all but the optimizer's.
    Raises ValueError naming the `argument` if there is no checkpoint, AwayError or RefusedError.
    """
    from pipeline.tracking.registry import download_model

    storage = resolved_storage(storage)
    if model.startswith(REGISTERED):
        uri = tracking_uri(uri)
        reach_store(uri)
        # Two models have equal names of folders.
        return download_model(uri, model, Path(tempfile.mkdtemp(dir=into)))
    checkpoint = find_local(model, storage, needs_weights=not files)
    if checkpoint is None and uri:
        checkpoint = _fetch(model, tracking_uri(uri), into, files)
    if checkpoint is None:
        raise ValueError(
            f"{argument}={model!r}: no such folder, and none of this name in {storage}; expected a "
            f"checkpoint, a run, or {REGISTERED}NAME@ALIAS; if MLflow has the run, give "
            "--tracking.uri"
        )
    return checkpoint


def with_start(settings: Settings) -> Settings:
    """Return settings whose `model.start` and `optim.teacher` are local checkpoints.

    Those that lie in MLflow are downloaded. Raises as `find_checkpoint`.
    """
    changes = {}
    if settings.model.start:
        changes["model.start"] = _local("model.start", settings.model.start, settings)
    if settings.optim.teachers:
        teachers = [_local("optim.teacher", word, settings) for word in settings.optim.teachers]
        changes["optim.teacher"] = settings.optim.joined(teachers)
    return settings.replaced(changes)


def _local(key: str, model: str, settings: Settings) -> str:
    """Return `model` if it is here, else the folder that it is downloaded to.

    It is kept in `ray.storage`, under its checksum.
    """
    storage, scratch = resolved_storage(settings.ray.storage), settings.ray.scratch
    if find_local(model, storage, scratch, needs_weights=False) is not None:
        return model
    kept = local_storage(storage, scratch) / STARTS
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept) as place:
        found = find_checkpoint(model, storage, settings.tracking.uri, Path(place), argument=key)
        digest = hashlib.sha256((found / METADATA_NAME).read_bytes()).hexdigest()[:16]
        # Another start may have put the same there meanwhile.
        if not (kept / digest).exists():
            found.rename(kept / digest)
    if is_store(storage):
        publish(kept / digest, f"{storage}/{STARTS}/{digest}")
    return str(kept / digest)


def _fetch(run: str, uri: str, into: Path, files: Collection[str]) -> Path:
    """Download `files` of an MLflow run's best checkpoint; return their folder.

    The folder above it has the run's place in MLflow, as a run's own folder has.
    `run` is an id or a name. Raises ValueError if no run or several match, AwayError or
    RefusedError.
    """
    from pipeline.tracking.artifacts import download_folder
    from pipeline.tracking.runs import find_runs

    reach_store(uri)
    runs = find_runs(uri, run)
    if len(runs) != 1:
        ids = ", ".join(sorted(found.run_id for found in runs))
        known = f"{len(runs)} runs are called {run!r}: {ids}" if runs else f"no run is {run!r}"
        raise ValueError(f"tracking.uri={uri!r}: {known}; expected the id or the name of one")
    [found] = runs
    folder = into / found.run_id / BEST_CHECKPOINT
    folder.mkdir(parents=True)
    recorded = SyncPosition(
        uri=redacted(uri), experiment_id=found.experiment_id, run_id=found.run_id
    )
    write_position(folder.parent, recorded)
    return download_folder(
        found, BEST_CHECKPOINT, folder, lambda kept: files or set(kept) - {OPTIMIZER_NAME}
    )


def reach_store(uri: str) -> None:
    """Raise ValueError if a database is missing, AwayError if a server does not answer."""
    from pipeline.tracking.client import reach

    scheme, _, path = uri.partition(":///")
    if scheme == "sqlite" and not Path(path.partition("?")[0]).exists():
        raise ValueError(
            f"tracking.uri={uri!r}: no such database; without another tracking.uri runs are "
            "recorded in mlflow.db in the folder where they are started"
        )
    reach(uri, _REACH_S)


def compared_run(name: str, checkpoint: Path) -> ComparedRun:
    """Read a checkpoint for a comparison.

    Raises ValueError if a file of it is damaged, or its results per person are missing.
    """
    metadata, people = read_metadata(checkpoint), checkpoint / PEOPLE_NAME
    check_file(checkpoint, PEOPLE_NAME)
    if not people.exists():
        raise ValueError(
            f"{checkpoint}: no {PEOPLE_NAME}, as it was written without an evaluation; to "
            f"create it: {shlex.join([*command('jobs.evaluate'), str(checkpoint)])} "
            f"--data.val SHARDS --people {shlex.quote(str(people))}"
        )
    return ComparedRun(
        name=name,
        settings=metadata.settings,
        joint_set=metadata.joint_set,
        epoch=metadata.progress.epochs,
        results=read_results(people),
    )
