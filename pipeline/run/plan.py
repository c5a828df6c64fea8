"""Planning of a run: settings are resolved and checked before any cluster resource is taken."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path, PurePosixPath

from pipeline.data.measurable import check_measurable, measurable
from pipeline.data.shards.index import ShardSet, absolute_patterns, find_shards, find_streams
from pipeline.io.console import say
from pipeline.io.location import bucket_and_key, is_remote, is_store, local_path
from pipeline.io.redaction import redacted
from pipeline.pose.joint_sets import JOINT_SETS, JointSet, Measure
from pipeline.run.changes import differences, facts_of, former_facts, listed
from pipeline.run.checkpoint import check_file, weights_name
from pipeline.run.checkpoint_manager import newest_sound
from pipeline.run.layout import SWEEP_NAME
from pipeline.run.metadata import CheckpointMetadata, check_resumable, check_teacher
from pipeline.run.ownership import check_free
from pipeline.run.start import Start, find_local, plan_start
from pipeline.run.storage import check_store, fetch_run, local_storage, shown
from pipeline.settings import DataSettings, Settings

# Variable of Ray's that a submitted job has in its environment.
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# A writable disk must have room for a page.
_PROBE_BYTES = 4096
# Schemes that MLflow's client takes, without those of plug-ins.
_STORES = (
    *("sqlite", "postgresql", "mysql", "mssql", "http", "https"),
    *("file", "databricks", "databricks-uc", "uc"),
)
_WITHOUT_PATH = ("databricks", "databricks-uc")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run's resolved settings, its shards, and metadata of the checkpoint to resume from.

    `changes` describes by key what differs from the run of this name so far; `restarts` says that
    it therefore starts over. `start` is what a new run takes from `model.start`.
    """

    settings: Settings
    train: ShardSet
    val: ShardSet
    measure: Measure
    resumes: CheckpointMetadata | None
    changes: Mapping[str, str] = field(default_factory=dict)
    restarts: bool = False
    start: Start | None = None

    @property
    def joint_set(self) -> JointSet:
        """The joint set of the data."""
        return self.train.joint_set

    @property
    def checksums(self) -> dict[str, str]:
        """The checksums of the training and validation data."""
        return {"train": self.train.checksum, "val": self.val.checksum}

    @property
    def folder(self) -> Path:
        """The run's folder, which has its checkpoints and journal."""
        return self.storage / self.settings.ray.name

    @property
    def storage(self) -> Path:
        """The folder of runs; of runs in a bucket its copy on this machine."""
        return local_storage(self.settings.ray.storage, self.settings.ray.scratch)

    @property
    def is_complete(self) -> bool:
        """Whether the run of this name has completed all its epochs, or has ended early."""
        done = self.resumes
        return done is not None and self.settings.optim.is_over(
            done.progress.epochs, done.plateau.epochs_since
        )


def plan_training(settings: Settings) -> Plan:
    """Resolve and check settings. Raises ValueError naming the setting and what was expected."""
    train, val = _find_data(settings.data)
    difference = train.joint_set.difference(val.joint_set)
    if difference:
        raise ValueError(
            f"data.train and data.val have different joint sets: {difference}; expected the same"
        )
    given, settings = settings, _resolved(settings, train, val)
    measure = _checked_measure(settings, train.joint_set, val)
    _check_amounts(settings, train)
    _check_cache(settings.data, train)
    _check_places(settings, train)
    plan = _resuming(
        Plan(settings=settings, train=train, val=val, measure=measure, resumes=None), given
    )
    _check_teachers(plan.settings, train.joint_set)
    return replace(plan, start=_start(plan, train.joint_set))


def _find_data(data: DataSettings) -> tuple[ShardSet, ShardSet]:
    """Find training and validation shards. Streams take the joint set of the validation shards."""
    if data.reading == "exact":
        train = find_shards("data.train", data.train, data.bad_samples)
        return train, find_shards("data.val", data.val, data.bad_samples)
    val = find_shards("data.val", data.val, data.bad_samples)
    return find_streams("data.train", data.train, val.joint_set, data.epoch_samples), val


def working_root() -> Path:
    """Return the default folder of results: the working folder, or for a submitted job one at home.

    A submitted job runs in a temporary copy of the working folder.
    """
    return Path.home() / "hourglass-ray" if is_submitted() else Path.cwd()


def is_submitted() -> bool:
    """Whether this process is that of a job that was submitted to a Ray cluster."""
    return SUBMITTED in os.environ


def _absolute(setting: str, value: str, path: str) -> Path:
    """Return an absolute path. Raises ValueError for a relative one in a submitted job."""
    if is_submitted() and not Path(path).expanduser().is_absolute():
        raise ValueError(
            f"{setting} must be absolute in a submitted job, which runs in a temporary folder, "
            f"got {value!r}"
        )
    return Path(path).expanduser().absolute()


def tracking_uri(setting: str) -> str:
    """Resolve `tracking.uri` to MLflow's URI, with an absolute SQLite path. Raises ValueError."""
    uri = setting or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return f"sqlite:///{working_root() / 'mlflow.db'}"
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and separator and not path.startswith("/"):
        return f"sqlite:///{_absolute('tracking.uri', uri, path)}"
    scheme = _scheme_of(uri)
    if scheme == "file" and not uri.removeprefix("file:").startswith("/"):
        return f"file://{_absolute('tracking.uri', uri, uri.removeprefix('file:'))}"
    # Other packages add stores to MLflow.
    plugins = entry_points(group="mlflow.tracking_store").names
    if scheme not in (*_STORES, *plugins):
        raise ValueError(
            "tracking.uri must be like sqlite:////path/mlflow.db or http://host:5000, of one of "
            f"{', '.join(_STORES)}, got {redacted(uri)!r}"
        )
    return uri


def _scheme_of(uri: str) -> str:
    """Return the scheme of MLflow's URI without a database's driver; empty if it has none."""
    if uri in _WITHOUT_PATH:
        return uri
    scheme, colon, _ = uri.partition(":")
    return scheme.partition("+")[0].lower() if colon else ""


def resolved_storage(setting: str) -> str:
    """Resolve `ray.storage` to an absolute folder or one in a bucket. Raises ValueError."""
    if is_store(setting):
        bucket_and_key(setting)
        return setting.rstrip("/")
    if setting.startswith("file:"):
        return local_path(setting)
    if "://" in setting:
        raise ValueError(
            "ray.storage must be a folder that every node sees, or one in a bucket: s3://, gs:// "
            f"or az://, got {redacted(setting)!r}"
        )
    return str(_absolute("ray.storage", setting, setting) if setting else working_root() / "runs")


def _resolved(settings: Settings, train: ShardSet, val: ShardSet) -> Settings:
    joints = len(train.joint_set.joints)
    if settings.model.joints not in (0, joints):
        raise ValueError(
            f"model.joints must be {joints} for the joint set {train.joint_set.name} of "
            f"data.train, got {settings.model.joints}"
        )
    model = settings.model
    data = f"{train.checksum} {val.checksum}"
    if train.joint_set not in JOINT_SETS.values():
        # The checksum covers numbered joints, not their names or flip pairs.
        data += f" {json.dumps(train.joint_set.to_json())}"
    fingerprint = settings.fingerprint(data)
    name = f"{train.joint_set.name}-s{model.stacks}m{model.modules}-{fingerprint}"
    return settings.replaced(
        {
            "data.train": absolute_patterns(settings.data.train),
            "data.val": absolute_patterns(settings.data.val),
            "model.joints": joints,
            "model.start": _checkpoint_folder("model.start", settings.model.start, settings),
            "optim.teacher": _teacher(settings),
            "data.cache": str(Path(settings.data.cache).expanduser().absolute())
            if settings.data.cache
            else "",
            "ray.storage": resolved_storage(settings.ray.storage),
            "ray.scratch": str(Path(settings.ray.scratch).expanduser().absolute())
            if settings.ray.scratch
            else "",
            "ray.name": settings.ray.name or name,
            "tracking.uri": tracking_uri(settings.tracking.uri),
        }
    )


def _checkpoint_folder(key: str, word: str, settings: Settings) -> str:
    """Resolve `word` to a checkpoint's absolute folder, or its location in a bucket."""
    storage = resolved_storage(settings.ray.storage)
    if not word:
        return ""
    # Whoever loads the weights brings them.
    found = find_local(word, storage, settings.ray.scratch, needs_weights=False)
    if found is None:
        raise ValueError(
            f"{key}={word!r}: no such folder, and none of this name in {storage}; expected "
            "a checkpoint or a run"
        )
    return shown(found.absolute())


def _teacher(settings: Settings) -> str:
    """Resolve the trained networks of `optim.teacher` as `_checkpoint_folder`."""
    teachers = settings.optim.teachers
    if not teachers:
        return settings.optim.teacher
    found = [_checkpoint_folder("optim.teacher", word, settings) for word in teachers]
    return settings.optim.joined(found)


def _start(plan: Plan, joint_set: JointSet) -> Start | None:
    settings = plan.settings
    if not settings.model.start:
        return None
    folder = find_local(settings.model.start, scratch=settings.ray.scratch)
    if folder is None and plan.resumes is not None:
        # Another run may have removed what this one has begun with, and needs no more.
        return None
    if folder is None:
        raise ValueError(_gone("model.start", settings.model.start, settings))
    return plan_start(folder, settings.model, joint_set)


def _check_teachers(settings: Settings, joint_set: JointSet) -> None:
    for teacher in settings.optim.teachers:
        folder = find_local(teacher, scratch=settings.ray.scratch)
        if folder is None:
            raise ValueError(_gone("optim.teacher", teacher, settings))
        check_teacher(folder, settings, joint_set)
        check_file(folder, weights_name(folder, "auto"))


def _gone(key: str, place: str, settings: Settings) -> str:
    return (
        f"{key}={place!r}: run {settings.ray.name} was started with this checkpoint, which is no "
        "longer there, as a run keeps only its best and newest ones; bring it back, or give the "
        f"folder of another as --{key} with --ray.on-change resume"
    )


def _checked_measure(settings: Settings, joint_set: JointSet, val: ShardSet) -> Measure:
    measure = joint_set.measure(settings.evaluation.measure)
    found = measurable(val, measure)
    check_measurable(f"data.val={redacted(settings.data.val)!r}", found, joint_set, val.source)
    return measure


def _check_amounts(settings: Settings, train: ShardSet) -> None:
    workers, batch_size = settings.ray.most_workers, settings.optim.batch_size
    data = f"data.train={redacted(settings.data.train)!r}"
    if len(train.paths) < workers:
        raise ValueError(
            f"{data} has {len(train.paths)} shards, expected at least "
            f"ray.workers={settings.ray.workers}; pack with a smaller --people-per-shard"
        )
    if train.people < batch_size:
        raise ValueError(
            f"{data} has {train.people:,} people, expected at least optim.batch_size={batch_size}"
        )
    samples = train.people // batch_size * batch_size * settings.optim.epochs
    if settings.optim.warmup_samples >= samples:
        raise ValueError(
            f"optim.warmup_samples must be below the {samples:,} samples of all epochs, "
            f"got {settings.optim.warmup_samples}"
        )


def _check_cache(data: DataSettings, train: ShardSet) -> None:
    """Raise ValueError if the cache is too small for one window, and would download repeatedly."""
    remote = [entry for at, entry in zip(train.paths, train.entries, strict=False) if is_remote(at)]
    if not (data.cache and remote):
        return
    fewest = min(entry.people for entry in remote)
    together = math.ceil(data.shuffle_window / fewest) + 1
    needed = sum(sorted((entry.bytes for entry in remote), reverse=True)[:together])
    if needed > data.cache_gb * 1e9:
        raise ValueError(
            f"data.cache_gb must be at least {math.ceil(needed / 1e7) / 100} to hold the shards of "
            f"data.shuffle_window={data.shuffle_window} samples, got {data.cache_gb:g}"
        )


def _check_places(settings: Settings, train: ShardSet) -> None:
    """Raise ValueError if the run can't write where it will have to."""
    _, storage = check_storage(settings.ray.storage, settings.ray.scratch)
    check_writable("ray.name", storage / settings.ray.name)
    if settings.data.cache and any(map(is_remote, train.paths)):
        check_writable("data.cache", Path(settings.data.cache))
    scheme, _, path = settings.tracking.uri.partition(":///")
    if scheme == "sqlite":
        database = Path(path.partition("?")[0])
        check_writable("tracking.uri", database.parent)
        if database.exists() and not os.access(database, os.W_OK):
            raise ValueError(f"tracking.uri: {database} can't be written")


def check_storage(storage: str, scratch: str) -> tuple[str, Path]:
    """Check that runs can be written to a resolved `ray.storage`, in a bucket also to `scratch`.

    Returns the folder on this machine, after the name of its setting. Raises ValueError.
    """
    setting, folder = "ray.storage", local_storage(storage, scratch)
    if is_store(storage):
        setting = "ray.scratch"
    check_writable(setting, folder)
    if is_store(storage):
        check_store(storage)
    return setting, folder


def check_writable(setting: str, folder: Path) -> None:
    """Raise ValueError naming the setting if nothing can be written to `folder`.

    If it does not exist yet, its nearest existing parent counts. A full disk is not writable.
    """
    there = next(above for above in (folder, *folder.parents) if above.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise ValueError(f"{setting}={str(folder)!r} can't be written: {error.strerror}") from error


def _resuming(plan: Plan, given: Settings) -> Plan:
    """Return the plan with the run's newest sound checkpoint, and report damaged ones.

    A run that `given` names as its start or teacher stands for the checkpoint that was its best
    when this run began.

    Raises ValueError if all are damaged, or if the run had other data or settings; with
    ray.on_change=resume only if it can't continue with the new ones.
    """
    fetch_run(plan.settings.ray)
    if (plan.folder / SWEEP_NAME).exists():
        raise ValueError(f"{shown(plan.folder)} holds a sweep: give another ray.name to the run")
    found, choice = newest_sound(plan.folder, say), plan.settings.ray.on_change
    checkpoint = found and found[1]
    former = former_facts(plan.folder, checkpoint)
    anew = plan
    plan = replace(plan, settings=_as_begun(plan.settings, given, former))
    changes = differences(former, facts_of(plan.settings, plan.checksums))
    unlike = checkpoint and checkpoint.joint_set.difference(plan.joint_set)
    if unlike:
        changes["joint set"] = f"joint set: {unlike}"
    if changes and not plan.settings.ray.take_over:
        # That it runs is more important than that it is another one.
        check_free(plan.folder, f"run {plan.settings.ray.name}")
    if changes and choice == "refuse":
        raise ValueError(_refusal(plan, changes))
    if changes and choice == "restart":
        return replace(anew, changes=changes, restarts=True)
    if found is not None:
        check_resumable(*found, plan.settings, plan.joint_set)
    return replace(plan, resumes=checkpoint, changes=changes)


def _as_begun(settings: Settings, given: Settings, former: Mapping[str, str]) -> Settings:
    """Return settings with the former checkpoints of the runs that `given` names."""
    changes = {
        "model.start": place_as_begun(
            given.model.start, settings.model.start, former.get("model.start", "")
        )
    }
    words, now = given.optim.teachers, settings.optim.teachers
    before = former.get("optim.teacher", "").split(",")
    if words and len(before) == len(words):
        places = map(place_as_begun, words, now, before)
        changes["optim.teacher"] = settings.optim.joined(list(places))
    return settings.replaced(changes)


def place_as_begun(word: str, now: str, before: str) -> str:
    """Return `before` if it is in the run or sweep that `word` names, else `now`, its best."""
    given, here, there = (PurePosixPath(place) for place in (word, now, before))
    if given.name == here.name:
        # It names a checkpoint.
        return now
    is_sweep = given.name == here.parent.parent.name
    is_within = there.parent == here.parent or (
        is_sweep and there.parent.parent == here.parent.parent
    )
    return before if is_within else now


def _refusal(plan: Plan, changes: Mapping[str, str]) -> str:
    is_other = any(key.startswith(("model.", "joint set")) for key in changes)
    resume = "" if is_other else "--ray.on-change resume to continue with the new ones, "
    return (
        f"run {plan.settings.ray.name} in {plan.settings.ray.storage} had other settings or data: "
        f"{listed(changes)}. Give the former ones, another --ray.name, {resume}or "
        "--ray.on-change restart to start over and keep the former run under another name"
    )
