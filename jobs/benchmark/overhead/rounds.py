"""Rounds in which every side takes a turn, alone on the machine as far as the sides are concerned."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from jobs.benchmark.overhead.side import Side
from jobs.benchmark.overhead.turns import wait_until
from jobs.benchmark.timing import process_cpu_s
from pipeline.io.console import say


def wait_for_start(sides: Mapping[str, Side]) -> None:
    """Wait until every side is ready for its first turn."""
    for side in sides.values():
        wait_until(_calls(side.is_ready, 0))


def take_turns(sides: Mapping[str, Side], rounds: int) -> Iterator[dict[str, dict[str, Any]]]:
    """What all sides measured, round by round; there is one more than `rounds`."""
    wait_for_start(sides)
    for turn in range(rounds + 1):
        # Every other round goes backwards: a drift of the machine's pace favours nobody.
        order = list(sides)[:: -1 if turn % 2 else 1]
        yield {name: _take_turn(sides, name, turn, last=turn == rounds) for name in order}
        say(f"  turn {turn} of {rounds} taken")


def _take_turn(sides: Mapping[str, Side], name: str, turn: int, *, last: bool) -> dict[str, Any]:
    """Let a side train, evaluate and report an epoch while the others, with all their processes, stand still."""
    side = sides[name]
    with ExitStack() as stillness:
        for other in sides.values():
            if other is not side:
                stillness.enter_context(other.standing_still())
        trains = side.trains(turn)
        start, before, own = time.monotonic(), side.others_cpu_s(turn), process_cpu_s(trains)
        side.turns.go(turn).touch()
        wait_until(_calls(side.is_done, turn))
        measured: dict[str, Any] = json.loads(side.turns.done(turn).read_text()) | {
            "others_cpu_s": side.others_cpu_s(turn) - before,
            "seconds": time.monotonic() - start,
        }
        if last:
            wait_until(side.has_ended)
            return measured
        wait_until(_calls(side.is_ready, turn + 1))
        # With the evaluation, and what is kept of the epoch.
        return measured | {
            "epoch_s": time.monotonic() - start,
            "epoch_cpu_s": process_cpu_s(trains) - own,
            "epoch_others_cpu_s": side.others_cpu_s(turn) - before,
        }


def _calls(question: Callable[[int], bool], turn: int) -> Callable[[], bool]:
    return lambda: question(turn)
