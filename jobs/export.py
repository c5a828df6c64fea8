"""Export checkpoints as files that run without this code: `python -m jobs.export --help`."""

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jobs.options import Model, Stacks, Storage, TrackingUri, Weights, output_at
from pipeline.io.console import amount, say
from pipeline.io.location import bucket_and_key, is_store, local_path
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
    """Export a checkpoint's network to ONNX or torch.export, and check it. Needs no cluster.

    The file takes uint8 RGB images (batch, height, width, 3) in batches of any size.
    """

    model: Model
    to: Literal["onnx", "torch-export"]
    """Format: onnx, or torch-export for torch.export.load."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """New file, .onnx or .pt2, also in a bucket (s3://, gs://, az://); empty: RUN-CHECKPOINT with
    that ending in the working folder."""
    decode: bool = False
    """Return joints in input pixels with confidences instead of heatmaps."""
    decoding: Annotated[Decoding | None, tyro.conf.arg(name="evaluation.decoding")] = None
    """Decoding of heatmaps to joints; None: as in the checkpoint's settings."""
    flip_test: bool = False
    """Average the heatmaps with those of the mirrored image; doubles the work."""
    stacks: Stacks = 0
    weights: Weights = "auto"
    photographs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PLACE ...")] = ()
    """Files, folders or globs of photographs for the check, each filled by one person."""
    val: Annotated[str, tyro.conf.arg(name="data.val", metavar="SHARDS")] = ""
    """Shards with people for the check; empty, without photographs: the checkpoint's validation
    shards if they are on this machine, otherwise rendered people."""
    storage: Storage = ""
    uri: TrackingUri = ""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    from pipeline.inference.export.write import ExportError

    with clear_errors(), tempfile.TemporaryDirectory() as folder:
        try:
            export(arguments, Path(folder))
        except ExportError as error:
            fail(f"not exported: {error}")


def export(arguments: Arguments, place: Path) -> str:
    """Write the file, check it, and then give it its name.

    `place` is a folder for a downloaded checkpoint. Raises ValueError, ExportError or OSError.
    """
    import torch

    from pipeline.inference.export.check import compare
    from pipeline.inference.export.description import describe
    from pipeline.inference.export.graph import Graph, GraphSettings
    from pipeline.inference.export.write import check_installed, load, write
    from pipeline.run.checkpoint import find_weights, load_network
    from pipeline.run.cut import cut_checkpoint
    from pipeline.tracking.lookup import find_checkpoint

    check_installed(arguments.to)
    model, storage, uri = arguments.model, arguments.storage, arguments.uri
    found = find_checkpoint(model, storage, uri, place).absolute()
    checkpoint = cut_checkpoint(found, arguments.stacks, place)
    out = _out_file(arguments, checkpoint)
    network, metadata = load_network(checkpoint, torch.device("cpu"), arguments.weights)
    chosen = GraphSettings(
        decode=arguments.decode,
        decoding=arguments.decoding or metadata.settings.evaluation.decoding,
        flip_test=arguments.flip_test,
    )
    graph = Graph(network, metadata.settings, metadata.joint_set, chosen)
    people = _people(arguments, metadata)
    weights = find_weights(checkpoint, arguments.weights)
    _describe(graph, metadata, checkpoint, weights)
    folder, name = out.rpartition("/")[::2] if is_store(out) else os.path.split(out)
    with output_at(folder or ".") as output:
        if output.size(name) is not None:
            raise ValueError(f"--out {out} exists; expected a new file")
        with _aside(output.folder / name) as partial:
            write(
                graph,
                arguments.to,
                partial,
                metadata.settings.model.input_px,
                describe(metadata, checkpoint, weights, chosen),
            )
            difference = compare(graph, metadata, load(arguments.to, partial), people.images)
        size = (output.folder / name).stat().st_size
        output.send()
    _report(difference, people)
    say(f"written: {out} ({amount(size / 2**20, 1)} MiB)")
    return out


def _out_file(arguments: Arguments, checkpoint: Path) -> str:
    """Return the file to write. Raises ValueError if it exists or has another format's ending."""
    from pipeline.inference.export.write import SUFFIXES

    suffix = SUFFIXES[arguments.to]
    out = arguments.out or f"{checkpoint.parent.name}-{checkpoint.name}{suffix}"
    if is_store(out):
        if not bucket_and_key(out)[1].endswith(suffix):
            raise ValueError(f"--out {out}: a file of --to {arguments.to} must end in {suffix}")
        return out
    path = Path(local_path(out))
    if path.suffix != suffix:
        raise ValueError(f"--out {out}: a file of --to {arguments.to} must end in {suffix}")
    if path.exists():
        raise ValueError(f"--out {out} exists; expected a new file")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: no folder {path.parent}")
    return str(path)


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
    """Give a path beside `out`, and rename it to `out` unless an exception is raised."""
    partial = out.with_name(f".partial-{out.name}")
    try:
        yield partial
        partial.rename(out)
    finally:
        partial.unlink(missing_ok=True)


def _describe(
    graph: "Graph", metadata: "CheckpointMetadata", checkpoint: Path, weights: str
) -> None:
    model, chosen = metadata.settings.model, graph.chosen
    say(
        f"{checkpoint.parent.name}/{checkpoint.name}: "
        f"{model.stacks} stack{'s' * (model.stacks > 1)} of {model.features} features, "
        f"{model.input_px} px, {len(metadata.joint_set.joints)} joints of "
        f"{metadata.joint_set.name}, weights {weights}"
    )
    decoded = f"decoding {chosen.decoding}" if chosen.decode else ""
    inside = ["normalisation", "flip test" * chosen.flip_test, decoded]
    outside = [
        "heatmaps of stacks before the last" * (model.stacks > 1),
        "flip test" * (not chosen.flip_test),
        "decoding" * (not chosen.decode),
    ]
    say(f"in the graph: {', '.join(filter(None, inside))}")
    say(f"not in the graph: {', '.join(filter(None, outside)) or 'nothing'}")


def _report(difference: "Difference", people: "People") -> None:
    from pipeline.inference.export.check import MOST_PX

    say(f"checked against the network on {people.source}, one at a time and in a batch")
    say(
        f"largest difference: {difference.joint_px:.2g} px of a joint in the input "
        f"(allowed: {MOST_PX}), {difference.confidence:.2g} in confidence"
    )


if __name__ == "__main__":
    main()
