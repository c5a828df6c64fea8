"""The cost of recording as a person reads it."""

from collections.abc import Mapping
from typing import Any

from pipeline.benchmark.report import aligned
from pipeline.benchmark.share.logging.shares import AGAIN, HANGING, LOCAL, REFUSED, SERVER

_NAMES = {
    AGAIN: "nothing recorded, once more",
    LOCAL: "SQLite on this machine",
    SERVER: "a server",
    REFUSED: "a server that went down",
    HANGING: "a server that hangs",
}
_HEADLINES = (
    *("local_percent", "server_percent", "away_percent", "noise_percent"),
    *("blocked_percent", "courier_cpu_percent"),
)


def logging_report(result: Mapping[str, Any]) -> str:
    """Tables of all that was measured."""
    return "\n\n".join(part(result) for part in (_head, _arms, _headline))


def _head(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"{machine['cores']} cores, load {machine['load_average_before']:.1f} before and "
        f"{machine['load_average']:.1f} after, MLflow {machine['mlflow']}, torch {machine['torch']}"
    )


def _arms(result: Mapping[str, Any]) -> str:
    columns = ("percent", "min", "max", "cpu_percent", "blocked_percent", "courier_cpu_percent")
    rows = [["% of an epoch", "longer", "min", "max", "more CPU", "blocked", "courier's CPU"]]
    for name, title in _NAMES.items():
        rows.append([title, *(f"{result['arms'][name][column]:.2f}" for column in columns)])
    return aligned(rows) + (
        f"\nepochs of {result['epoch_s']:.1f} s with nothing recorded, one worker of one thread; medians of "
        f"{result['settings']['rounds']} turns' own;\n"
        f"the server answers after {1000 * result['settings']['round_trip_s']:.0f} ms; longer: by the clock, against nothing "
        "recorded in the same round, where nothing against\n"
        "nothing shows what is chance; blocked: writing journal and pictures in the process that trains, though not\n"
        "all of that keeps the loop; courier: what delivers to MLflow, in the process beside it; drawing the pictures\n"
        f"takes {result['picture_percent']:.2f} %, with and without MLflow"
    )


def _headline(result: Mapping[str, Any]) -> str:
    return "   ".join(f"{key} {result[key]:.2f}" for key in _HEADLINES)
