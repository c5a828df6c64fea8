"""From what the arms have measured to what recording costs, in percent of training time."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.benchmark.share.logging.meter import Meter

# What the others are compared with: nothing is recorded.
NOTHING = "nothing"
# The same once more: by how much it differs is chance.
AGAIN = "again"
LOCAL, SERVER = "local", "server"
# MLflow was there at the start, and then was down, or took connections and never answered.
REFUSED, HANGING = "refused", "hanging"
AWAY = (REFUSED, HANGING)
RECORDED = (LOCAL, SERVER, *AWAY)
ARMS = (NOTHING, AGAIN, *RECORDED)

Turn = Mapping[str, Mapping[str, Any]]


def shares(turns: Sequence[Turn], meters: Mapping[str, Meter]) -> dict[str, Any]:
    """Medians over the turns, of each arm and the headlines; a percentage below 0 is an arm that was faster than nothing."""
    arms = {name: _compared(turns, name) | _direct(turns, name, meters) for name in ARMS[1:]}
    return {
        "local_percent": arms[LOCAL]["percent"],
        "server_percent": arms[SERVER]["percent"],
        "away_percent": max(arms[name]["percent"] for name in AWAY),
        "noise_percent": arms[AGAIN]["percent"],
        "blocked_percent": max(arms[name]["blocked_percent"] for name in RECORDED),
        "courier_cpu_percent": max(arms[name]["courier_cpu_percent"] for name in RECORDED),
        "picture_percent": arms[LOCAL]["picture_percent"],
        "epoch_s": _median(turns, NOTHING, "epoch_s"),
        "arms": arms,
    }


def _compared(turns: Sequence[Turn], name: str) -> dict[str, Any]:
    """How much longer an arm's epochs took than those that record nothing, turn by turn."""
    percents = [_more(turn, name, "epoch_s") for turn in turns]
    return {
        "percent": statistics.median(percents),
        "min": min(percents),
        "max": max(percents),
        "turns": percents,
        "cpu_percent": statistics.median(_more(turn, name, "epoch_cpu_s") for turn in turns),
    }


def _direct(turns: Sequence[Turn], name: str, meters: Mapping[str, Meter]) -> dict[str, float]:
    """What was measured on the spot: of the process that trains by its meter, of the one beside it by its CPU time."""
    epoch_s, meter = _median(turns, name, "epoch_s"), meters[name]
    courier_s = sum(
        turn[name]["epoch_others_cpu_s"] - turn[NOTHING]["epoch_others_cpu_s"] for turn in turns
    )
    return {
        "epoch_s": epoch_s,
        "blocked_percent": 100 * (meter.journal_s + meter.file_s) / meter.epochs / epoch_s,
        "journal_cpu_percent": 100 * meter.journal_cpu_s / meter.epochs / epoch_s,
        "courier_cpu_percent": 100 * courier_s / sum(turn[name]["epoch_s"] for turn in turns),
        "picture_percent": 100 * meter.picture_s / meter.epochs / epoch_s,
    }


def _more(turn: Turn, name: str, what: str) -> float:
    return 100 * (turn[name][what] / turn[NOTHING][what] - 1)


def _median(turns: Sequence[Turn], name: str, what: str) -> float:
    return statistics.median(turn[name][what] for turn in turns)
