"""What a run will do, worked out and checked before any cluster resource is taken."""

import json
import math
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.data.shards.index import ShardSet, absolute_patterns, find_shards, find_streams
from pipeline.io.console import say
from pipeline.io.location import is_remote
from pipeline.io.redaction import redacted
from pipeline.pose.joint_sets import JOINT_SETS, JointSet, Measure
from pipeline.run.checkpoint_manager import newest_sound
from pipeline.run.metadata import CheckpointMetadata, check_same_architecture, check_same_joints
from pipeline.settings import DataSettings, Settings
from pipeline.settings.packing import TABLE_NAME

# What a disk that can be written has room for at the least: a page.
_PROBE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run's settings with nothing left open, its shards, and the checkpoint that it would go on from."""

    settings: Settings
    train: ShardSet
    val: ShardSet
    measure: Measure
    resumes: CheckpointMetadata | None

    @property
    def joint_set(self) -> JointSet:
        """The joints that are trained."""
        return self.train.joint_set

    @property
    def folder(self) -> Path:
        """Where the run keeps its checkpoints."""
        return Path(self.settings.ray.storage) / self.settings.ray.name

    @property
    def is_complete(self) -> bool:
        """Whether the run of this name has had all its epochs."""
        return (
            self.resumes is not None and self.resumes.progress.epochs >= self.settings.optim.epochs
        )


def plan_training(settings: Settings) -> Plan:
    """Resolve and check settings. Raises ValueError saying what is wrong, where, and what was expected."""
    train, val = _find_data(settings.data)
    difference = train.joint_set.difference(val.joint_set)
    if difference:
        raise ValueError(
            f"data.train and data.val have different joint sets: {difference}; expected the same"
        )
    settings = _resolved(settings, train, val)
    measure = _checked_measure(settings, val)
    _check_amounts(settings, train)
    _check_cache(settings.data, train)
    _check_places(settings, train)
    plan = Plan(settings=settings, train=train, val=val, measure=measure, resumes=None)
    return replace(plan, resumes=_latest_record(plan))


def _find_data(data: DataSettings) -> tuple[ShardSet, ShardSet]:
    """Training and validation shards; those that are streamed have the joint set of the others."""
    if data.reading == "exact":
        train = find_shards("data.train", data.train, data.bad_samples)
        return train, find_shards("data.val", data.val, data.bad_samples)
    val = find_shards("data.val", data.val, data.bad_samples)
    return find_streams("data.train", data.train, val.joint_set, data.epoch_samples), val


def working_root() -> Path:
    """Where results go by default: the working folder, but in a submitted job one that outlives it."""
    return Path.home() / "hourglass-ray" if _is_submitted() else Path.cwd()


def _is_submitted() -> bool:
    """Whether this is a Ray job, which runs in a temporary copy of the working folder."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _absolute(setting: str, value: str, path: str) -> Path:
    """An absolute path; a relative one is refused where its folder is about to vanish."""
    if _is_submitted() and not Path(path).expanduser().is_absolute():
        raise ValueError(
            f"{setting} must be absolute in a submitted job, which runs in a temporary folder, "
            f"got {value!r}"
        )
    return Path(path).expanduser().absolute()


def tracking_uri(setting: str) -> str:
    """The MLflow URI that `tracking.uri` stands for; a relative SQLite path becomes absolute."""
    uri = setting or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return f"sqlite:///{working_root() / 'mlflow.db'}"
    scheme, separator, path = uri.partition(":///")
    if scheme == "sqlite" and separator and not path.startswith("/"):
        return f"sqlite:///{_absolute('tracking.uri', uri, path)}"
    if "://" not in uri:
        raise ValueError(
            f"tracking.uri must be like sqlite:////path/mlflow.db or http://host:5000, got {redacted(uri)!r}"
        )
    return uri


def storage_folder(setting: str) -> Path:
    """The folder that `ray.storage` stands for."""
    if "://" in setting:
        raise ValueError(f"ray.storage must be a folder that every node sees, got {setting!r}")
    return _absolute("ray.storage", setting, setting) if setting else working_root() / "runs"


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
        # Shards hold joints by number; what they are called and how they mirror is beside them.
        data += f" {json.dumps(train.joint_set.to_json())}"
    fingerprint = settings.fingerprint(data)
    name = f"{train.joint_set.name}-s{model.stacks}m{model.modules}-{fingerprint}"
    return settings.replaced(
        {
            "data.train": absolute_patterns(settings.data.train),
            "data.val": absolute_patterns(settings.data.val),
            "model.joints": joints,
            "data.cache": str(Path(settings.data.cache).expanduser().absolute())
            if settings.data.cache
            else "",
            "ray.storage": str(storage_folder(settings.ray.storage)),
            "ray.name": settings.ray.name or name,
            "tracking.uri": tracking_uri(settings.tracking.uri),
        }
    )


def _checked_measure(settings: Settings, val: ShardSet) -> Measure:
    measure = val.joint_set.measure(settings.evaluation.measure)
    if measure.normaliser == "head" and not val.head_sizes:
        needed = "a column head_size" if val.source == TABLE_NAME else "--head-boxes"
        others = ", ".join(m.key for m in val.joint_set.measures if m != measure)
        raise ValueError(
            f"data.val={redacted(settings.data.val)!r}: none of {val.people:,} people has a head size, so "
            f"{measure.title} is undefined; pack again with {needed}"
            + (f", or set evaluation.measure to {others}" if others else "")
        )
    return measure


def _check_amounts(settings: Settings, train: ShardSet) -> None:
    workers, batch_size = settings.ray.most_workers, settings.optim.batch_size
    if len(train.paths) < workers:
        raise ValueError(
            f"data.train={redacted(settings.data.train)!r} has {len(train.paths)} shards, expected at least "
            f"ray.workers={settings.ray.workers}; pack with a smaller --people-per-shard"
        )
    if train.people < batch_size:
        raise ValueError(
            f"data.train={redacted(settings.data.train)!r} has {train.people:,} people, expected at least "
            f"optim.batch_size={batch_size}"
        )
    samples = train.people // batch_size * batch_size * settings.optim.epochs
    if settings.optim.warmup_samples >= samples:
        raise ValueError(
            f"optim.warmup_samples must be below the {samples:,} samples of all epochs, "
            f"got {settings.optim.warmup_samples}"
        )


def _check_cache(data: DataSettings, train: ShardSet) -> None:
    """Refuse a cache that would have to download shards again and again within a window."""
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
    """Raise ValueError if a folder that this machine will write to can't be written."""
    check_writable("ray.storage", Path(settings.ray.storage))
    check_writable("ray.name", Path(settings.ray.storage) / settings.ray.name)
    if settings.data.cache and any(map(is_remote, train.paths)):
        check_writable("data.cache", Path(settings.data.cache))
    scheme, _, path = settings.tracking.uri.partition(":///")
    if scheme == "sqlite":
        database = Path(path.partition("?")[0])
        check_writable("tracking.uri", database.parent)
        if database.exists() and not os.access(database, os.W_OK):
            raise ValueError(f"tracking.uri: {database} can't be written")


def check_writable(setting: str, folder: Path) -> None:
    """Raise ValueError naming the setting if `folder`, or the nearest above it that exists, can't be written.

    A disk that is full can't either.
    """
    there = next(above for above in (folder, *folder.parents) if above.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise ValueError(f"{setting}={str(folder)!r} can't be written: {error}") from error


def _latest_record(plan: Plan) -> CheckpointMetadata | None:
    """The run's newest sound checkpoint; one that is damaged is named and passed over.

    Raises ValueError if its network or joint set is another one, or if all are damaged.
    """
    found = newest_sound(plan.folder, say)
    if found is None:
        return None
    folder, metadata = found
    check_same_architecture(folder, metadata, plan.settings)
    check_same_joints(folder, metadata, plan.joint_set)
    return metadata
