"""Convert weights of other code into a checkpoint: `python -m jobs.convert --help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pipeline.io.console import say
from pipeline.io.own import file_sha256
from pipeline.settings.cli import clear_errors, parse

if TYPE_CHECKING:
    from pipeline.model.conversion.convert import Conversion
    from pipeline.model.conversion.state_dict import StateDict
    from pipeline.pose.joint_sets import JointSet


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Convert a state dict of pytorch-pose's hg or Princeton's PoseNet into a checkpoint.

    Only networks that this code can build exactly are converted.
    """

    weights: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """A .pth or .pth.tar file of torch.save, or a .safetensors file."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Checkpoint folder to write; must not exist."""
    joint_set: str = "mpii"
    """Joint set that the network predicts, in its order."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        convert_file(arguments)


def convert_file(arguments: Arguments) -> None:
    """Read, report what is carried over, and write. Raises ValueError before it writes."""
    from pipeline.model.conversion.convert import convert
    from pipeline.model.conversion.state_dict import read_state_dict
    from pipeline.pose.joint_sets import joint_set
    from pipeline.run.checkpoint import take_snapshot, write_checkpoint
    from pipeline.run.metadata import CheckpointMetadata, Progress
    from pipeline.settings import Settings

    weights, out = arguments.weights, arguments.out
    joints = joint_set(arguments.joint_set)
    if out.exists():
        raise ValueError(f"--out {out} exists; expected a new folder")
    state = read_state_dict(weights)
    try:
        conversion = convert(state.tensors, joints)
    except ValueError as error:
        raise ValueError(f"{weights}: {error}") from error
    _report(weights, state, conversion, joints)
    out.mkdir(parents=True)
    metadata = CheckpointMetadata(
        settings=Settings(model=conversion.model),
        joint_set=joints,
        progress=Progress(),
        metrics={},
        origin={
            "file": weights.name,
            "sha256": file_sha256(weights),
            "layout": conversion.layout.name,
        },
    )
    write_checkpoint(out, take_snapshot(conversion.network, metadata))
    say(f"written: {out}")


def _report(path: Path, state: "StateDict", conversion: "Conversion", joints: "JointSet") -> None:
    from pipeline.model.conversion.convert import describe

    model = conversion.model
    parameters = sum(parameter.numel() for parameter in conversion.network.parameters())
    say(f"{path.name}: {describe(conversion.layout, model)}")
    if state.place:
        say(f"tensors: under {'.'.join(state.place)}")
    if state.prefix:
        say(f"keys: prefix {state.prefix} removed")
    say(f"joints: assumed to be in the order of {joints.name}; the file has no names")
    say(f"carried over: {conversion.carried} tensors unchanged, {parameters:,} parameters")
    if conversion.rounded:
        say(f"rounded to float32: {len(conversion.rounded)} tensors")
    if conversion.unused:
        say(f"dropped: {len(conversion.unused)} tensors of skips that the network never uses")
    say("not carried over: optimizer, epoch and training settings; training can't resume from it")
    say(f"input of the original: {conversion.layout.input_range}")


if __name__ == "__main__":
    main()
