"""Start of a run from trained weights: whatever fits by name and shape, and heads by joint."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.io.text import briefly
from pipeline.model.build import build_network
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.sides import plain_name
from pipeline.run.checkpoint import check_file, find_weights, weights_name
from pipeline.run.checkpoint_manager import best, checkpoints, ranked
from pipeline.run.journal import JOURNAL_NAME, Journal
from pipeline.run.layout import SWEEP_NAME
from pipeline.run.metadata import METADATA_NAME, read_metadata
from pipeline.run.storage import folders_here, shown, with_weights
from pipeline.settings import ModelSettings

_Shape = tuple[int, ...]


def find_local(
    run: str, storage: str = "", scratch: str = "", *, needs_weights: bool = True
) -> Path | None:
    """Return the checkpoint that `run` names on disks and in buckets, or None.

    `run` is the folder of a checkpoint, a run or a sweep, or the name of a run or a sweep in
    `storage`, a folder or one in a bucket, of which a copy comes to `scratch`, without weights
    unless it `needs_weights`. A run means its best checkpoint, a sweep that of its best trial that
    did not fail. Raises ValueError if there is none.
    """
    for folder in folders_here(run, storage, scratch):
        if (folder / METADATA_NAME).exists():
            found = folder
        elif (folder / SWEEP_NAME).exists():
            found = _best_of_sweep(folder)
        elif folder.is_dir():
            found = _best(folder)
        else:
            continue
        return with_weights(found) if needs_weights else found
    return None


def _best(folder: Path) -> Path:
    """Return a run's best checkpoint by its primary metric."""
    kept = checkpoints(folder)
    if not kept:
        raise ValueError(
            f"{shown(folder)}: holds no checkpoint, expected the folder of a run or of one"
        )
    found = best(folder, _metric(kept))
    if found is None:
        raise ValueError(
            f"{shown(folder)}: none of its {len(kept)} checkpoints has been evaluated yet"
        )
    return found[0]


def _best_of_sweep(folder: Path) -> Path:
    """Return the best checkpoint of the trials that did not fail, by their primary metric."""
    found: list[tuple[float, Path]] = []
    for trial in sorted(path.parent for path in folder.glob(f"*/{JOURNAL_NAME}")):
        kept, ends = checkpoints(trial), [e for e in Journal(trial).entries() if e.kind == "end"]
        if kept and not (ends and ends[-1].content["status"] == "FAILED"):
            metric = _metric(kept)
            found += [(m.metrics[metric], path) for path, m in ranked(trial, metric)[:1]]
    if not found:
        raise ValueError(
            f"{shown(folder)}: no trial of this sweep has a checkpoint with a score yet"
        )
    return max(found, key=lambda scored: scored[0])[1]


def _metric(kept: Sequence[Path]) -> str:
    """Return the name of the primary metric of a run with these checkpoints."""
    newest = read_metadata(kept[-1])
    return newest.joint_set.measure(newest.settings.evaluation.measure).metric_name


@dataclass(frozen=True, kw_only=True)
class Start:
    """The part of a checkpoint in `folder` that a network takes.

    `whole` are tensors that fit as they are. `by_joint` have the joints along the axis given;
    `joints` are pairs of joints of equal name, there and here. `lines` describe it all, the source
    first.
    """

    folder: Path
    whole: tuple[str, ...]
    by_joint: Mapping[str, int]
    joints: tuple[tuple[int, int], ...]
    lines: tuple[str, ...]

    def load(self, network: nn.Module) -> None:
        """Load the weights, whose checksum `plan_start` has checked, into a network."""
        stored = load_file(self.folder / weights_name(self.folder, "auto"))
        own = network.state_dict()
        taken: dict[str, Tensor] = {name: stored[name] for name in self.whole}
        there, here = ([pair[side] for pair in self.joints] for side in (0, 1))
        for name, axis in self.by_joint.items():
            rows = stored[name].index_select(axis, torch.tensor(there))
            taken[name] = own[name].cpu().index_copy(axis, torch.tensor(here), rows)
        network.load_state_dict(own | taken)


def plan_start(folder: Path, model: ModelSettings, joint_set: JointSet) -> Start:
    """Compare a checkpoint with the network to train.

    Raises ValueError naming the file if it is damaged, or if nothing of it fits.
    """
    metadata, weights = read_metadata(folder), find_weights(folder, "auto")
    path = folder / weights_name(folder, "auto")
    check_file(folder, path.name)
    try:
        with safe_open(path, "pt") as file:
            stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not readable as weights: {briefly(error)}") from error
    own = _shapes(model)
    axes = _joint_axes(own, _shapes(replace(model, joints=model.joints + 1)))
    names = [plain_name(name) for name in joint_set.joints]
    known = {plain_name(name): at for at, name in enumerate(metadata.joint_set.joints)}
    joints = tuple((known[name], at) for at, name in enumerate(names) if name in known)
    in_both = [name for name in own if name in stored]
    by_joint = {
        name: axes[name]
        for name in in_both
        if name in axes
        and joints
        and _without(own[name], axes[name]) == _without(stored[name], axes[name])
    }
    whole = tuple(name for name in in_both if name not in axes and own[name] == stored[name])
    if not any(len(own[name]) > 1 for name in whole):
        there = metadata.settings.model
        raise ValueError(
            f"model.start={str(folder)!r}: none of its {len(stored)} tensors fits; it has "
            f"model.features={there.features} and model.order={there.order}, here they are "
            f"{model.features} and {model.order}"
        )
    anew = [name for name in own if name not in whole and name not in by_joint]
    progress = metadata.progress
    lines = [
        f"{'moving average' if weights == 'ema' else 'weights'} of {folder} "
        f"({progress.samples:,} samples of {metadata.joint_set.name})",
        f"{len(whole) + len(by_joint)} of {len(own)} tensors fit by name and shape",
        *_joint_lines(joint_set.joints, [here for _, here in joints]),
        *_anew_lines("absent there", [name for name in anew if name not in stored]),
        *_anew_lines("of another shape there", [name for name in anew if name in stored]),
    ]
    return Start(folder=folder, whole=whole, by_joint=by_joint, joints=joints, lines=tuple(lines))


def _shapes(model: ModelSettings) -> dict[str, _Shape]:
    network = build_network(model, 0, torch.device("meta"))
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _joint_axes(own: Mapping[str, _Shape], more: Mapping[str, _Shape]) -> dict[str, int]:
    """Return the axis of each tensor along which the joints lie; `more` has one joint more."""
    return {
        name: next(axis for axis, size in enumerate(shape) if size != more[name][axis])
        for name, shape in own.items()
        if shape != more[name]
    }


def _without(shape: _Shape, axis: int) -> _Shape:
    return shape[:axis] + shape[axis + 1 :]


def _joint_lines(joints: Sequence[str], kept: Sequence[int]) -> Iterable[str]:
    anew = [name for at, name in enumerate(joints) if at not in kept]
    if not anew:
        yield f"the heads of all {len(joints)} joints"
        return
    if kept:
        yield f"the heads of {len(kept)} joints: {', '.join(joints[at] for at in kept)}"
    yield f"heads anew for {len(anew)} joints: {', '.join(anew)}"


def _anew_lines(reason: str, names: Sequence[str]) -> Iterable[str]:
    """Describe the tensors that start anew, counted by the part of the network."""
    parts = Counter(re.match(r"[a-z_]+(\.\d+)?", name)[0] for name in names)  # type: ignore[index]
    if parts:
        counted = ", ".join(f"{part} ({count} tensors)" for part, count in parts.items())
        yield f"anew, since {reason}: {counted}"
