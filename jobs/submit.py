"""Run another command on a cluster, followed from here: `python -m jobs.submit --help`."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro

from pipeline.io.console import say
from pipeline.io.installation import command, module, python_path
from pipeline.io.interruption import orderly_stop, status
from pipeline.io.location import split_pattern
from pipeline.io.parsing import did_you_mean
from pipeline.settings.cli import clear_errors, fail, parse
from pipeline.settings.packing import SourceName

if TYPE_CHECKING:
    from pipeline.cluster.submission import Job

# Commands that use a cluster or its data.
COMMANDS = {
    "pack": "jobs.pack",
    "inspect": "jobs.inspect",
    "train": "jobs.train",
    "sweep": "tune.sweep",
    "evaluate": "jobs.evaluate",
    "predict": "jobs.predict",
    "export": "jobs.export",
}
SLURM = "slurm"
_SCRIPT = Path(__file__).parent / "cluster" / "slurm.sbatch"
# The arguments that are a command's words after no option. Other commands have none.
POSITIONAL = {
    "pack": "source",
    "inspect": "shards",
    "evaluate": "model",
    "predict": "model",
    "export": "model",
}
# Options of these commands that take no value, and several; the others take one.
FLAGS = frozenset(
    {"decode", "every-stack", "exact", "flip-test", "heatmaps", "overlays", "predictions"}
)
SEVERAL = frozenset({"formats", "photographs"})
# Arguments whose value is a path, or several with commas between them.
PATHS = frozenset(
    {
        *("data", "data-train", "data-val", "data-cache", "images", "annotations", "head-boxes"),
        *("joint-set", "boxes", "truth", "figures", "json", "people", "out", "save-config"),
        *("ray-storage", "ray-scratch", "shards"),
    }
)
# Arguments whose value is a path or a name: a path if it exists here.
PATHS_OR_NAMES = frozenset(
    {
        *("checkpoint", "config", "model", "model-start", "optim-teacher", "photographs"),
        *("source", "space"),
    }
)
# Options with a small file that is sent along.
_SENT = ("config", "space")
_DATABASE = re.compile(r"sqlite:///(?=[^/])")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Run a command of hourglass-ray, given after --, on a cluster, and print what it prints:
    submit --to http://127.0.0.1:8265 -- train --data out/people"""

    to: Annotated[str, tyro.conf.arg(metavar="URL|slurm")] = ""
    """Where: the address of a Ray cluster's dashboard, which needs no checkout of the code; slurm,
    for a job with a Ray cluster of its own; empty: RAY_API_SERVER_ADDRESS, otherwise here."""
    ctrl_c: Literal["detach", "stop"] = "detach"
    """Effect of Ctrl-C: detach: the job keeps running. stop: the job keeps a checkpoint and
    ends."""
    detach: bool = False
    """End when the job is submitted."""
    python: str = "python"
    """Python of the cluster's nodes; not for slurm, where it is this one."""
    sbatch: Annotated[tuple[str, ...], tyro.conf.arg(metavar="OPTION ...")] = ()
    """Options for sbatch without their dashes: nodes=2 gpus-per-node=4 time=12:00:00 exclusive."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    words = sys.argv[1:] if argv is None else argv
    split = words.index("--") if "--" in words else len(words)
    arguments = parse(Arguments, None, words[:split])
    with clear_errors("a job that was submitted keeps running"):
        submit(arguments, words[split + 1 :])


def submit(arguments: Arguments, words: Sequence[str]) -> None:
    """Run a command on the cluster. Raises ValueError, or ConnectionError without a cluster."""
    name, *options = words or [""]
    if name not in COMMANDS:
        raise ValueError(
            f"expected a command after --, one of {', '.join(COMMANDS)}, got {name!r}"
            + did_you_mean(name, COMMANDS)
        )
    to = arguments.to or os.environ.get("RAY_API_SERVER_ADDRESS", "")
    if arguments.sbatch and to != SLURM:
        raise ValueError(f"--sbatch {' '.join(arguments.sbatch)}: expected --to slurm with it")
    if not to:
        _run_here(COMMANDS[name], options)
    job: Job
    if to == SLURM:
        from pipeline.cluster import slurm

        job = slurm.submit(_SCRIPT, [f"--{option}" for option in arguments.sbatch], words)
    else:
        from pipeline.cluster import submission

        options, files = portable(name, options)
        there = [arguments.python, "-m", module(COMMANDS[name]), *options]
        job = submission.submit(to, there, files)
    follow, stop = job.commands()
    say(f"job {job.name} submitted")
    say(f"  its output: {follow}")
    say(f"  its end:    {stop}")
    if not arguments.detach:
        _follow(job, arguments.ctrl_c)


def _run_here(name: str, options: Sequence[str]) -> None:
    """Become the command."""
    say(f"no cluster named by --to or RAY_API_SERVER_ADDRESS: {command(name)[-1]} runs here")
    os.environ["PYTHONPATH"] = python_path()
    os.execv(sys.executable, [sys.executable, "-m", module(name), *options])


def _follow(job: "Job", ctrl_c: str) -> None:
    """Print a job's output to its end, and end with its exit status unless that is 0."""
    signals: list[str] = []

    def ask(signal_name: str) -> bool:
        signals.append(signal_name)
        if ctrl_c == "stop":
            say(f"{signal_name}: stopping job {job.name}; a second signal only ends this command")
        return True

    is_asked = False
    with orderly_stop(ask):
        for part in job.output():
            print(part, end="", flush=True)
            if signals and ctrl_c == "detach":
                say(f"{signals[0]}: detached; job {job.name} keeps running")
                raise SystemExit(status())
            if signals and not is_asked:
                job.stop()
                is_asked = True
    state, code = job.result()
    if code:
        fail(f"job {job.name} {state}", status() if is_asked else code)
    say(f"job {job.name} {state}")


def portable(command: str, words: Sequence[str]) -> tuple[list[str], Mapping[str, Path]]:
    """Return a command's options for another folder than this, and files to put into that.

    Relative paths become absolute. Files of settings are sent along.
    """
    made: list[str] = []
    files: dict[str, Path] = {}
    positional = POSITIONAL.get(command, "")
    argument = positional
    for word in words:
        if not word.startswith("--"):
            made.append(_portable(argument, word, files))
            if positional and argument not in SEVERAL:
                argument = positional
            continue
        name, equals, value = word.partition("=")
        option = re.sub("[._]", "-", name.removeprefix("--"))
        made.append(f"{name}={_portable(option, value, files)}" if equals else word)
        argument = positional if equals or option in FLAGS else option
    return made, files


def _portable(argument: str, value: str, files: dict[str, Path]) -> str:
    if argument in _SENT and Path(value).is_file():
        name = f"{argument}-{Path(value).name}"
        files[name] = Path(value)
        return name
    if argument in PATHS:
        return ",".join(map(_absolute, split_pattern(value)))
    if argument == "tracking-uri" and _DATABASE.match(value):
        return f"sqlite:///{_absolute(_DATABASE.sub('', value))}"
    if argument == "optim-teacher":
        return ",".join(_if_there(argument, teacher.strip()) for teacher in value.split(","))
    return _if_there(argument, value)


def _if_there(argument: str, value: str) -> str:
    """Return a value as an absolute path if it may be one and exists here."""
    is_format = argument == "source" and value in get_args(SourceName)
    may_be_path = (argument in PATHS_OR_NAMES and not is_format) or os.sep in value
    return _absolute(value) if may_be_path and glob(value) else value


def _absolute(path: str) -> str:
    is_place = "://" in path or path.startswith(("~", "file:", "models:/"))
    return path if is_place else str(Path(path).absolute())


if __name__ == "__main__":
    main()
