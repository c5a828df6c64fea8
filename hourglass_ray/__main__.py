"""The command `hourglass`: every command of `jobs` and `tune` by its name."""

import sys
from importlib import import_module
from typing import NamedTuple

from pipeline.io.console import clear_errors
from pipeline.io.installation import COMMAND, module
from pipeline.io.interruption import end_by_signals_early
from pipeline.io.parsing import did_you_mean


class Command(NamedTuple):
    """A command's module, whose `main` reads its options, and a phrase for the list."""

    module: str
    summary: str


COMMANDS = {
    "quickstart": Command("jobs.quickstart", "render people, train on them and predict: minutes"),
    "doctor": Command("jobs.doctor", "check this machine, and name what would fail"),
    "pack": Command("jobs.pack", "pack annotations and photographs into shards"),
    "inspect": Command("jobs.inspect", "check packed shards, and write a dataset card"),
    "train": Command("jobs.train", "train a network with workers of Ray"),
    "sweep": Command("tune.sweep", "train runs that differ in some settings; print a leaderboard"),
    "submit": Command("jobs.submit", "run a command on a cluster, and follow it from here"),
    "evaluate": Command("jobs.evaluate", "measure a checkpoint on validation shards"),
    "compare": Command("jobs.compare", "compare runs on the same validation people"),
    "compare_sweeps": Command("tune.compare", "compare the trials of two sweeps"),
    "predict": Command("jobs.predict", "predict joints on photographs, videos or shards"),
    "export": Command("jobs.export", "export a checkpoint for other runtimes"),
    "convert": Command("jobs.convert", "convert weights of other code into a checkpoint"),
    "score": Command("jobs.score", "score stored predictions of MPII or COCO"),
    "ui": Command("jobs.ui", "open runs in the MLflow UI"),
    "deliver": Command("jobs.deliver", "send to MLflow what runs recorded while it was away"),
    "accept": Command("jobs.accept.__main__", "check that a new machine trains right"),
    "benchmark": Command("jobs.benchmark.__main__", "measure the speed of parts on this machine"),
    "chaos": Command("jobs.chaos.__main__", "train while workers, nodes and MLflow are killed"),
    "fidelity": Command("jobs.fidelity.__main__", "repeat an experiment of docs/fidelity.md"),
}
# tyro's options, which print or write a shell's completion.
_COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    if argv is None:
        end_by_signals_early(is_program=True)
        argv = sys.argv[1:]
    name, *words = argv or ["--help"]
    if name in COMMANDS:
        # The name that its usage shows.
        sys.argv = [f"{COMMAND} {name}", *words]
        import_module(module(COMMANDS[name].module)).main(words)
    else:
        with clear_errors():
            _answer(name, argv)


def _answer(name: str, argv: list[str]) -> None:
    """Do what an option of `hourglass` itself asks. Raises ValueError for an unknown command."""
    if name in ("--help", "-h"):
        print(listing())
    elif name == "--version":
        from importlib.metadata import version

        print(f"hourglass-ray {version('hourglass-ray')}")
    elif name in _COMPLETION:
        _complete(argv)
    else:
        raise ValueError(
            f"unknown command {name!r}{did_you_mean(name, COMMANDS)}; 'hourglass' lists them"
        )


def listing() -> str:
    """Return the commands, one a line."""
    lines = [f"  {name:14}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hourglass COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "hourglass COMMAND --help lists the options of a command, and",
            "hourglass --tyro-print-completion {bash,zsh,tcsh} prints a shell's completion.",
        ]
    )


def _complete(argv: list[str]) -> None:
    from pipeline.settings.cli import print_completion

    programs = {name: import_module(module(command.module)) for name, command in COMMANDS.items()}
    # The benchmark's options are read without tyro.
    parsers = {
        name: program.Arguments
        for name, program in programs.items()
        if hasattr(program, "Arguments")
    }
    print_completion("hourglass", parsers, argv)


if __name__ == "__main__":
    main()
