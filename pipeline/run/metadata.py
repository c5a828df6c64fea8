"""A checkpoint's metadata as readable JSON: settings, joint set, progress, metrics, checksums."""

import hashlib
import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.io.inside import check_plain, read_whole
from pipeline.io.parsing import fields_of, number_of, parse_json, table_of, text_of, whole_of
from pipeline.pose.joint_sets import JointSet
from pipeline.settings import Settings
from pipeline.settings.packing import CropSettings

METADATA_NAME = "checkpoint.json"
_FORMAT = 3
_CHECKSUM = "checksum"
# Settings that decide which samples each step of an epoch sees.
_ORDER = ("data.seed", "data.shuffle_window", "optim.batch_size")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Position in training: completed epochs, and steps and samples summed over all workers.

    `epoch_steps` counts the steps of the current epoch. Together with `epochs` it is the position
    in the stream of samples from which training resumes. Steps include the skipped ones, whose
    loss or gradient was not finite: `bad_steps`, and `epoch_bad_steps` in the current epoch.
    """

    epochs: int = 0
    epoch_steps: int = 0
    steps: int = 0
    samples: int = 0
    bad_steps: int = 0
    epoch_bad_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Best validation accuracy, epochs since then, and whether the learning rate has dropped."""

    best: float | None = None
    epochs_since: int = 0
    has_dropped: bool = False

    def after(self, accuracy: float, patience: float) -> "Plateau":
        """Return the state after another epoch.

        `patience` epochs without improvement drop the rate once, for good.
        """
        if self.best is None or accuracy > self.best:
            return Plateau(best=accuracy, has_dropped=self.has_dropped)
        waited = self.epochs_since + 1
        has_dropped = self.has_dropped or waited >= patience
        return Plateau(best=self.best, epochs_since=waited, has_dropped=has_dropped)


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """The JSON of a checkpoint. `metrics` are those of its epoch that were known at the time.

    `data` are the checksums of the training and validation data, empty if unknown. `crop` is how
    the crops of the validation data are stored, None if unknown. `origin` says where weights that
    were not trained here come from.
    """

    settings: Settings
    joint_set: JointSet
    progress: Progress
    metrics: dict[str, float]
    plateau: Plateau = field(default_factory=Plateau)
    data: dict[str, str] = field(default_factory=dict)
    crop: CropSettings | None = None
    origin: dict[str, str] = field(default_factory=dict)


def write_metadata(folder: Path, metadata: CheckpointMetadata, files: Mapping[str, str]) -> None:
    """Write the JSON, with the SHA-256 of the checkpoint's other `files` by name and its own."""
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
    if metadata.data:
        content["data"] = metadata.data
    if metadata.crop:
        content["crop"] = asdict(metadata.crop)
    if metadata.origin:
        content["origin"] = metadata.origin
    content[_CHECKSUM] = _checksum(content)
    (folder / METADATA_NAME).write_text(json.dumps(content, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that affect training."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "opencv-python-headless", "webdataset", "ray", "mlflow"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all but the checksum itself, independent of the file's layout."""
    counted = {key: value for key, value in content.items() if key != _CHECKSUM}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()


def read_metadata(folder: Path) -> CheckpointMetadata:
    """Read a checkpoint's JSON. Raises ValueError naming the file and what is wrong."""
    content = _read(folder)
    try:
        return CheckpointMetadata(
            settings=Settings.from_flat(table_of(content.get("settings"), "settings", _any)),
            joint_set=JointSet.from_json(content.get("joint_set")),
            progress=_progress(content.get("progress")),
            metrics=table_of(content.get("metrics"), "metrics", number_of),
            plateau=_plateau(content.get("plateau")),
            data=table_of(content.get("data", {}), "data", text_of),
            crop=CropSettings.from_json(content["crop"], "crop") if "crop" in content else None,
            origin=table_of(content.get("origin", {}), "origin", text_of),
        )
    except ValueError as error:
        raise ValueError(f"{folder / METADATA_NAME}: {error}") from error


def _any(value: Any, _: str) -> Any:
    """Return a setting as it is; `Settings` checks its type."""
    return value


def _progress(value: Any) -> Progress:
    names = [item.name for item in fields(Progress)]
    given = fields_of(value, "progress", required=(), optional=names)
    return Progress(**{name: whole_of(v, f"progress.{name}") for name, v in given.items()})


def _plateau(value: Any) -> Plateau:
    names = [item.name for item in fields(Plateau)]
    given = fields_of(value, "plateau", required=names)
    best, has_dropped = given["best"], given["has_dropped"]
    if not isinstance(has_dropped, bool):
        raise ValueError(f"plateau.has_dropped must be true or false, got {has_dropped!r:.80}")
    return Plateau(
        best=None if best is None else number_of(best, "plateau.best"),
        epochs_since=whole_of(given["epochs_since"], "plateau.epochs_since"),
        has_dropped=has_dropped,
    )


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of a checkpoint's other files by name. Raises as `read_metadata`."""
    try:
        return table_of(_read(folder).get("files"), "files", text_of)
    except ValueError as error:
        raise ValueError(f"{folder / METADATA_NAME}: {error}") from None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / METADATA_NAME
    # Its other files are read as well, by several libraries.
    for file in folder.glob("*"):
        check_plain(file)
    try:
        content: dict[str, Any] = parse_json(read_whole(path), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: not a checkpoint folder (no {METADATA_NAME})") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != _FORMAT:
        raise ValueError(f"{path}: expected format {_FORMAT}, got {found!r}")
    if content.get(_CHECKSUM) != _checksum(content):
        raise ValueError(f"{path}: checksum mismatch: the file was modified after it was written")
    return content


def check_resumable(
    folder: Path, metadata: CheckpointMetadata, settings: Settings, joints: JointSet
) -> None:
    """Raise ValueError if training with `settings` on `joints` can't resume from a checkpoint.

    It needs the same architecture and joint set, and within an epoch the same order of samples.
    """
    stored, expected = metadata.settings.flat(), settings.flat()
    for key in [key for key in expected if stored[key] != expected[key]]:
        if key.startswith("model."):
            problem = "of another architecture"
        elif key in _ORDER and metadata.progress.epoch_steps:
            problem = "within an epoch of another order"
        else:
            continue
        raise ValueError(
            f"{folder}: a checkpoint {problem}: {key} is {stored[key]} there, expected "
            f"{expected[key]}"
        )
    difference = metadata.joint_set.difference(joints)
    if difference:
        raise ValueError(
            f"{folder}: checkpoint and data have different joint sets: {difference}; expected the "
            "same"
        )


def check_teacher(folder: Path, settings: Settings, joints: JointSet) -> None:
    """Raise ValueError if the network of a checkpoint can't teach that of `settings` on `joints`.

    Their heatmaps must have equal sizes, joints and meaning.
    """
    metadata = read_metadata(folder)
    stored, own = metadata.settings.flat(), settings.flat()
    for key in ("model.input_px", "optim.loss"):
        if stored[key] != own[key]:
            raise ValueError(
                f"optim.teacher={str(folder)!r}: its {key} is {stored[key]}, expected {own[key]} "
                "as in the network that it teaches"
            )
    difference = metadata.joint_set.difference(joints)
    if difference:
        raise ValueError(
            f"optim.teacher={str(folder)!r}: teacher and data have different joint sets: "
            f"{difference}; expected the same"
        )
