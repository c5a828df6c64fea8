"""What a checkpoint says of itself, as JSON that a person can read."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.pose.joint_sets import JointSet, joint_set
from pipeline.settings import Settings

METADATA_NAME = "checkpoint.json"
_FORMAT = 3
# Of format 1 a checkpoint named its joint set, one of those known by name.
_NAMED_FORMAT = 1
# Up to format 2 it had no checksums.
_FORMATS = (_NAMED_FORMAT, 2, _FORMAT)
_CHECKSUM = "checksum"
# What decides which samples the steps of an epoch see.
_ORDER = ("data.seed", "data.shuffle_window", "optim.batch_size")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training has come: completed epochs, steps and samples over all workers.

    `epoch_steps` are the steps of the epoch under way. With `epochs` they are
    the position in the stream of samples, from which it goes on. Among the
    steps are those that were left out because their loss or gradient was not
    finite: `bad_steps`, and `epoch_bad_steps` of the epoch under way.
    """

    epochs: int = 0
    epoch_steps: int = 0
    steps: int = 0
    samples: int = 0
    # Checkpoints of before they were counted lack these.
    bad_steps: int = 0
    epoch_bad_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """How validation has gone: the best accuracy, the epochs since it, and whether the rate has dropped."""

    best: float | None = None
    epochs_since: int = 0
    has_dropped: bool = False

    def after(self, accuracy: float, patience: float) -> "Plateau":
        """The state after another epoch's accuracy; `patience` epochs without a better one drop the rate, for good."""
        if self.best is None or accuracy > self.best:
            return Plateau(best=accuracy, has_dropped=self.has_dropped)
        waited = self.epochs_since + 1
        return Plateau(
            best=self.best,
            epochs_since=waited,
            has_dropped=self.has_dropped or waited >= patience,
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """The JSON of a checkpoint. `metrics` are those known when it was written, of its epoch.

    `origin` says where weights that were not trained here come from.
    """

    settings: Settings
    joint_set: JointSet
    progress: Progress
    metrics: dict[str, float]
    plateau: Plateau = field(default_factory=Plateau)
    origin: dict[str, str] = field(default_factory=dict)


def write_metadata(folder: Path, metadata: CheckpointMetadata, files: Mapping[str, str]) -> None:
    """Write the JSON into a checkpoint's folder, with the SHA-256 of its other `files` and its own."""
    content = {
        "format": _FORMAT,
        "joint_set": metadata.joint_set.to_json(),
        "progress": asdict(metadata.progress),
        "plateau": asdict(metadata.plateau),
        "metrics": metadata.metrics,
        "settings": metadata.settings.shown(),
        "versions": versions(),
        "files": dict(files),
    }
    if metadata.origin:
        content["origin"] = metadata.origin
    content[_CHECKSUM] = _checksum(content)
    (folder / METADATA_NAME).write_text(json.dumps(content, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide what training does, where they are installed."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "opencv-python-headless", "webdataset", "ray", "mlflow"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of all but the checksum itself, however the file is laid out."""
    counted = {key: value for key, value in content.items() if key != _CHECKSUM}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def read_metadata(folder: Path) -> CheckpointMetadata:
    """Read a checkpoint's JSON. Raises ValueError naming the file and what is wrong."""
    path, content = folder / METADATA_NAME, _read(folder)
    try:
        stored = content["joint_set"]
        is_named = content["format"] == _NAMED_FORMAT
        return CheckpointMetadata(
            settings=Settings.from_flat(content["settings"]),
            joint_set=joint_set(stored) if is_named else JointSet.from_json(stored),
            progress=Progress(**content["progress"]),
            metrics=content["metrics"],
            plateau=Plateau(**content.get("plateau", {})),
            origin=content.get("origin", {}),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's other files by name; empty for one of a format that had none.

    Raises ValueError as `read_metadata` does.
    """
    files = _read(folder).get("files", {})
    if not isinstance(files, dict):
        raise ValueError(f"{folder / METADATA_NAME}: files must be an object, got {files!r}")
    return files


def _read(folder: Path) -> dict[str, Any]:
    path = folder / METADATA_NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: not a checkpoint folder (no {METADATA_NAME})") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from error
    form = content.get("format") if isinstance(content, dict) else None
    if form not in _FORMATS:
        raise ValueError(
            f"{path}: expected a checkpoint of format {_NAMED_FORMAT} to {_FORMAT}, got {form!r}"
        )
    if form == _FORMAT and content.get(_CHECKSUM) != _checksum(content):
        raise ValueError(
            f"{path}: its checksum is another: it was changed after it had been written"
        )
    return content


def check_same_architecture(folder: Path, metadata: CheckpointMetadata, settings: Settings) -> None:
    """Raise ValueError if the checkpoint's network is not the one that `settings` describe."""
    model = [key for key in settings.flat() if key.startswith("model.")]
    _check_same(f"{folder}: a checkpoint of another architecture", metadata, settings, model)


def check_same_order(folder: Path, metadata: CheckpointMetadata, settings: Settings) -> None:
    """Raise ValueError if `settings` order an epoch's samples otherwise than the checkpoint's did."""
    _check_same(
        f"{folder}: a checkpoint within an epoch of another order", metadata, settings, _ORDER
    )


def _check_same(
    what: str, metadata: CheckpointMetadata, settings: Settings, keys: Sequence[str]
) -> None:
    theirs, ours = metadata.settings.flat(), settings.flat()
    for key in keys:
        if theirs[key] != ours[key]:
            raise ValueError(f"{what}: {key} is {theirs[key]} there, expected {ours[key]}")


def check_same_joints(folder: Path, metadata: CheckpointMetadata, joints: JointSet) -> None:
    """Raise ValueError if the checkpoint was trained on other joints than those of the data, `joints`."""
    difference = metadata.joint_set.difference(joints)
    if difference:
        raise ValueError(
            f"{folder}: checkpoint and data have different joint sets: {difference}; expected the same"
        )
