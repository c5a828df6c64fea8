"""A trained network cut to its first stacks, as a checkpoint of its own."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.model.build import build_network
from pipeline.run.checkpoint import (
    AVERAGE_NAME,
    WEIGHTS_NAME,
    Snapshot,
    check_file,
    reading_weights,
    write_checkpoint,
)
from pipeline.run.metadata import CheckpointMetadata, read_checksums, read_metadata
from pipeline.settings import ModelSettings


def metric_of_stack(stack: int, name: str) -> str:
    """Return the name of a metric of the network cut to `stack` stacks: `stack_2/pckh_0.5`."""
    return f"stack_{stack}/{name}"


def name_of_stack(stack: int, name: str) -> str:
    """Return the name of a file of the network cut to `stack` stacks: `stack_2.people.npz`."""
    return f"stack_{stack}.{name}"


def cut_checkpoint(folder: Path, stacks: int, into: Path) -> Path:
    """Write the network of the checkpoint in `folder`, cut to `stacks` stacks, below `into`.

    The heatmaps of the cut network are those of stack `stacks` of the whole one, its parameters
    those of a network with `stacks` stacks. The checkpoint has what is known of its evaluation, and
    serves prediction alone. Returns its folder, or `folder` itself for 0 and for all stacks. Raises
    ValueError for other numbers, if the stacks before the last were not trained to predict, and for
    a damaged checkpoint.
    """
    metadata = read_metadata(folder)
    if stacks in (0, metadata.settings.model.stacks):
        return folder
    model = _cut_model(metadata.settings.model, stacks, str(folder))
    cut = into / folder.parent.name / f"{folder.name}-stacks-{stacks}"
    cut.mkdir(parents=True)
    names = set(build_network(model, 0, torch.device("meta")).state_dict())
    average = folder / AVERAGE_NAME
    snapshot = Snapshot(
        metadata=_cut_metadata(metadata, model),
        weights=_first(folder / WEIGHTS_NAME, names),
        average=_first(average, names) if average.exists() else None,
        extras=_files_of_stack(folder, stacks),
    )
    write_checkpoint(cut, snapshot)
    return cut


def _cut_model(model: ModelSettings, stacks: int, where: str) -> ModelSettings:
    """Return the shape of the network of `where` with `stacks` stacks. Raises ValueError."""
    if not 1 <= stacks <= model.stacks:
        whole = "1 stack" if model.stacks == 1 else f"{model.stacks} stacks"
        raise ValueError(f"--stacks must be from 1 to the {whole} of {where}, got {stacks}")
    if model.supervision == "last-stack":
        raise ValueError(
            f"--stacks {stacks}: {where} was trained with model.supervision=last-stack, so that "
            "only its last stack predicts joints"
        )
    return replace(model, stacks=stacks)


def _cut_metadata(metadata: CheckpointMetadata, model: ModelSettings) -> CheckpointMetadata:
    """Return the metadata of a cut network, with its own metrics, as far as they are known."""
    return replace(
        metadata,
        settings=replace(metadata.settings, model=model),
        metrics=metrics_of_stack(metadata.metrics, model.stacks),
    )


def metrics_of_stack(metrics: Mapping[str, float], stack: int) -> dict[str, float]:
    """Return those of a network's metrics that are of the network cut to `stack` stacks."""
    prefix = metric_of_stack(stack, "")
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix)
    }


def _files_of_stack(folder: Path, stack: int) -> dict[str, bytes]:
    """Read the files of a network's checkpoint that are of the network cut to `stack` stacks."""
    prefix, found = name_of_stack(stack, ""), {}
    for name in read_checksums(folder):
        if name.startswith(prefix):
            check_file(folder, name)
            found[name.removeprefix(prefix)] = (folder / name).read_bytes()
    return found


def _first(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Read the tensors of these names. Raises ValueError naming a damaged file."""
    check_file(path.parent, path.name)
    with reading_weights(path) as stored:
        return {name: stored[name] for name in names}
