"""Finds the run or model that a person means: a folder, a name, a run or registered model of MLflow's."""

from collections.abc import Callable
from pathlib import Path

from pipeline.evaluation.comparison import ComparedRun
from pipeline.evaluation.per_person import PEOPLE_NAME, read_results
from pipeline.run.checkpoint import OPTIMIZER_NAME, check_file
from pipeline.run.checkpoint_manager import BEST_CHECKPOINT, best, checkpoints
from pipeline.run.metadata import METADATA_NAME, read_metadata
from pipeline.run.plan import tracking_uri

# How MLflow names what its registry has.
REGISTERED = "models:/"
# Seconds in which a server has to answer.
_REACH_S = 8.0


def find_local(run: str, storage: Path) -> Path | None:
    """The checkpoint that `run` means, if it is of this machine.

    A checkpoint's folder means itself; a run's folder, and the name of one in
    `storage`, its best. Raises ValueError if that run has none.
    """
    for folder in (Path(run), storage / run):
        if (folder / METADATA_NAME).exists():
            return folder
        if folder.is_dir():
            return _best(folder)
    return None


def _best(folder: Path) -> Path:
    """A run's best checkpoint by its headline."""
    kept = checkpoints(folder)
    if not kept:
        raise ValueError(f"{folder}: holds no checkpoint, expected the folder of a run or of one")
    newest = read_metadata(kept[-1])
    measure = newest.joint_set.measure(newest.settings.evaluation.measure)
    found = best(folder, measure.metric_name)
    if found is None:
        raise ValueError(f"{folder}: none of its {len(kept)} checkpoints has been evaluated yet")
    return found[0]


def find_checkpoint(model: str, storage: Path, uri: str, into: Path) -> Path:
    """The checkpoint that a person means by `model`: see `find_local`; a version of a registered model; or a run of MLflow's.

    `models:/NAME@ALIAS` and `models:/NAME/VERSION` are looked up in MLflow, and
    runs too where `uri` is given; what is found is downloaded to `into`. Raises
    ValueError if there is none; AwayError or RefusedError.
    """
    from pipeline.tracking.registry import download_model

    if model.startswith(REGISTERED):
        uri = tracking_uri(uri)
        _reach(uri)
        return download_model(uri, model, into)
    checkpoint = find_local(model, storage)
    if checkpoint is None and uri:
        checkpoint = fetch_checkpoint(model, tracking_uri(uri), into)
    if checkpoint is None:
        raise ValueError(
            f"MODEL={model!r}: no such folder, and none of this name in {storage}; expected a "
            f"checkpoint, a run, or {REGISTERED}NAME@ALIAS; if MLflow has the run, give --tracking.uri"
        )
    return checkpoint


def fetch(run: str, uri: str, into: Path) -> Path:
    """Download what a run of MLflow's is compared by, and return the folder that it lies in.

    `run` is an id or a name. Raises ValueError if there is none, or several of
    the name; AwayError or RefusedError.
    """
    return _download(run, uri, into, lambda names: [METADATA_NAME, PEOPLE_NAME])


def fetch_checkpoint(run: str, uri: str, into: Path) -> Path:
    """As `fetch`, what prediction needs of the run's best checkpoint."""
    return _download(
        run, uri, into, lambda names: [name for name in names if name != OPTIMIZER_NAME]
    )


def _download(run: str, uri: str, into: Path, chosen: Callable[[list[str]], list[str]]) -> Path:
    from pipeline.tracking.runs import download, find_runs, list_files

    _reach(uri)
    found = find_runs(uri, run)
    if len(found) != 1:
        ids = ", ".join(sorted(one.run_id for one in found))
        known = f"{len(found)} runs are called {run!r}: {ids}" if found else f"no run is {run!r}"
        raise ValueError(f"tracking.uri={uri!r}: {known}; expected the id or the name of one")
    folder = into / found[0].run_id
    folder.mkdir()
    fetched = [
        download(found[0], f"{BEST_CHECKPOINT}/{name}", folder)
        for name in chosen(list_files(found[0], BEST_CHECKPOINT))
    ]
    return fetched[0].parent


def _reach(uri: str) -> None:
    """Raise ValueError if a database that whoever asks would make is not there; AwayError if no server answers."""
    from pipeline.tracking.client import reach

    scheme, _, path = uri.partition(":///")
    if scheme == "sqlite" and not Path(path.partition("?")[0]).exists():
        raise ValueError(f"tracking.uri={uri!r}: no such database")
    reach(uri, _REACH_S)


def compared_run(name: str, checkpoint: Path) -> ComparedRun:
    """Read a checkpoint to compare. Raises ValueError if it is damaged or lacks people.npz."""
    metadata, people = read_metadata(checkpoint), checkpoint / PEOPLE_NAME
    check_file(checkpoint, PEOPLE_NAME)
    if not people.exists():
        raise ValueError(
            f"{checkpoint}: no {PEOPLE_NAME}, as it was written without an evaluation; to create it: "
            f"python -m jobs.evaluate --checkpoint {checkpoint} --data.val SHARDS --people {people}"
        )
    return ComparedRun(
        name=name,
        settings=metadata.settings,
        joint_set=metadata.joint_set,
        epoch=metadata.progress.epochs,
        results=read_results(people),
    )
