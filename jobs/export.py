"""Checkpoints become files that run without this repository: `python -m jobs.export --help`."""

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pipeline.io.console import say
from pipeline.settings import Decoding
from pipeline.settings.cli import clear_errors, fail, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.inference.export.check import Difference
    from pipeline.inference.export.graph import Graph
    from pipeline.inference.export.samples import People
    from pipeline.run.metadata import CheckpointMetadata


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write a checkpoint's network as ONNX or for torch.export, and check the file against the network. Needs no cluster.

    It takes images as uint8 RGB (batch, height, width, 3) in batches of any size.
    """

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A checkpoint's folder; a run's folder or its name, by which its best checkpoint is meant; models:/NAME@ALIAS or
    models:/NAME/VERSION; or with --tracking.uri a run of MLflow's, by name or id."""
    to: Literal["onnx", "torch-export"]
    """Format: onnx, or torch-export, which torch.export.load reads."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write, .onnx or .pt2; must not exist; None: RUN-CHECKPOINT with that ending, here."""
    decode: bool = False
    """Answer joints in input pixels and the confidence in each, instead of heatmaps."""
    decoding: Annotated[Decoding | None, tyro.conf.arg(name="evaluation.decoding")] = None
    """How a heatmap becomes a joint; None: as the checkpoint's settings say."""
    flip_test: bool = False
    """Average the heatmaps with those of the mirrored image, for twice the work."""
    weights: Literal["auto", "raw", "ema"] = "auto"
    """Which of the checkpoint's weights: raw, as trained; ema, their moving average; auto: the average where there is one."""
    photographs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PLACE ...")] = ()
    """Files, folders or globs of photographs to check on, each filled by one person."""
    val: Annotated[str, tyro.conf.arg(name="data.val", metavar="SHARDS")] = ""
    """Shards with people to check on; empty, without photographs: those that the checkpoint was validated on if they
    are on this machine, else rendered people."""
    storage: Annotated[str, tyro.conf.arg(name="ray.storage", metavar="DIR")] = ""
    """Folder in which names of runs are looked up; empty: ./runs."""
    uri: Annotated[str, tyro.conf.arg(name="tracking.uri", metavar="URI")] = ""
    """MLflow tracking URI, for models:/... and for runs that are not here; empty: for models the database in this folder."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    from pipeline.inference.export.write import ExportError

    with clear_errors(), tempfile.TemporaryDirectory() as folder:
        try:
            export(arguments, Path(folder))
        except ExportError as error:
            fail(f"not exported: {error}")


def export(arguments: Arguments, place: Path) -> Path:
    """Write the file, check it, and only then give it its name. Raises ValueError, ExportError or OSError.

    `place` is a folder for a checkpoint that has to be downloaded.
    """
    import torch

    from pipeline.inference.export.check import compare
    from pipeline.inference.export.description import describe
    from pipeline.inference.export.graph import Graph, GraphSettings
    from pipeline.inference.export.write import check_installed, load, write
    from pipeline.run.checkpoint import find_weights, load_network
    from pipeline.run.plan import storage_folder
    from pipeline.tracking.lookup import find_checkpoint

    check_installed(arguments.to)
    storage = storage_folder(arguments.storage)
    checkpoint = find_checkpoint(arguments.model, storage, arguments.uri, place).absolute()
    out = _place(arguments, checkpoint)
    network, metadata = load_network(checkpoint, torch.device("cpu"), arguments.weights)
    chosen = GraphSettings(
        decode=arguments.decode,
        decoding=arguments.decoding or metadata.settings.evaluation.decoding,
        flip_test=arguments.flip_test,
    )
    graph = Graph(network, metadata.settings, metadata.joint_set, chosen)
    people = _people(arguments, metadata)
    weights = find_weights(checkpoint, arguments.weights)
    _tell(graph, metadata, checkpoint, weights)
    with _aside(out) as partial:
        write(
            graph,
            arguments.to,
            partial,
            metadata.settings.model.input_px,
            describe(metadata, checkpoint, weights, chosen),
        )
        difference = compare(graph, metadata, load(arguments.to, partial), people.images)
    _tell_check(difference, people)
    say(f"written: {out} ({out.stat().st_size / 2**20:,.1f} MiB)")
    return out


def _place(arguments: Arguments, checkpoint: Path) -> Path:
    """Where to write. Raises ValueError if there is something already, or the ending is another format's."""
    from pipeline.inference.export.write import SUFFIXES

    suffix = SUFFIXES[arguments.to]
    out = arguments.out or Path(f"{checkpoint.parent.name}-{checkpoint.name}{suffix}")
    if out.suffix != suffix:
        raise ValueError(f"--out {out}: a file of --to {arguments.to} must end in {suffix}")
    if out.exists():
        raise ValueError(f"--out {out} exists; expected a new file")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}")
    return out


def _people(arguments: Arguments, metadata: "CheckpointMetadata") -> "People":
    from pipeline.inference.export.samples import is_here, of_photographs, of_shards, rendered

    input_px, known = metadata.settings.model.input_px, metadata.settings.data.val
    if arguments.photographs and arguments.val:
        raise ValueError("either --photographs or --data.val, got both")
    if arguments.photographs:
        return of_photographs(arguments.photographs, input_px)
    if arguments.val or (known and is_here(known)):
        return of_shards("data.val", arguments.val or known, metadata.joint_set, input_px)
    return rendered(input_px)


@contextmanager
def _aside(out: Path) -> "Iterator[Path]":
    """A place beside `out` to write to, which becomes it unless something is raised."""
    partial = out.with_name(f".partial-{out.name}")
    try:
        yield partial
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)


def _tell(graph: "Graph", metadata: "CheckpointMetadata", checkpoint: Path, weights: str) -> None:
    model, chosen = metadata.settings.model, graph.chosen
    say(
        f"{checkpoint.parent.name}/{checkpoint.name}: {model.stacks} stack{'s' * (model.stacks > 1)} of {model.features} features, "
        f"{model.input_px} px, {len(metadata.joint_set.joints)} joints of {metadata.joint_set.name}, "
        f"weights {weights}"
    )
    decoded = f"decoding {chosen.decoding}" if chosen.decode else ""
    within = ["normalisation", "flip test" * chosen.flip_test, decoded]
    without = [
        "heatmaps of stacks before the last" * (model.stacks > 1),
        "flip test" * (not chosen.flip_test),
        "decoding" * (not chosen.decode),
    ]
    say(f"in the graph: {', '.join(filter(None, within))}")
    say(f"not in the graph: {', '.join(filter(None, without)) or 'nothing'}")


def _tell_check(difference: "Difference", people: "People") -> None:
    from pipeline.inference.export.check import MOST_PX

    say(f"checked against the network on {people.source}, one and several at a time")
    say(
        f"largest difference: {difference.joint_px:.2g} px of a joint in the input "
        f"(allowed: {MOST_PX}), {difference.confidence:.2g} in confidence"
    )


if __name__ == "__main__":
    main()
