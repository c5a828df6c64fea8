"""Accept a machine: `python -m jobs.accept --json FILE`, within eight minutes on a GPU.

Each check prints value, bound and verdict; a failed one ends the command with status 1. The
standard library parses the options, since it must run with torch, NumPy and OpenCV alone.
"""

import json
import math
import os
import sys
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.io.console import clear_errors, fail, say

if TYPE_CHECKING:
    from jobs.accept.checks import Check, Place

Part = Callable[["Place"], "Iterator[Check]"]


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    with clear_errors():
        arguments = _parser().parse_args(argv)
    # cuBLAS reads it when it starts; without it no matrix product is deterministic.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with clear_errors():
        failed = accept(arguments.device, arguments.json, arguments.minutes, ray=arguments.ray)
        if failed:
            fail(f"{failed} checks failed")
        say("accepted")


def accept(device: str, path: Path | None, minutes: float = 1.0, *, ray: bool = False) -> int:
    """Run all parts, and write the results after each; return the number of failed checks."""
    from jobs.accept.checks import Place
    from jobs.benchmark.step.training_step import found_device

    place = Place(device=found_device(device), minutes=minutes)
    parts, results, failed = _parts(ray=ray), [], 0
    for number, (name, run) in enumerate(parts.items(), start=1):
        say(f"{number}/{len(parts)} {name}")
        began, found = time.monotonic(), []
        for check in _guarded(run, place):
            found.append(_plain(check))
            failed += not check.ok
            say(check.line)
        seconds = round(time.monotonic() - began, 1)
        results.append({"part": name, "seconds": seconds, "checks": found})
        if path is not None:
            ended = {"device": str(place.device), "failed": failed, "parts": results}
            path.write_text(json.dumps(ended, indent=1) + "\n")
    return failed


def _guarded(run: Part, place: "Place") -> "Iterator[Check]":
    """Yield a part's checks; an error becomes one that failed, and the other parts follow."""
    from jobs.accept.checks import Check

    try:
        yield from run(place)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        yield Check(name="the part ended early", value=text, bound="no error", ok=False)


def _plain(check: "Check") -> dict[str, Any]:
    value = check.value
    is_number = isinstance(value, int | float)
    # JSON has no NaN.
    return asdict(check) | {
        "value": str(value) if is_number and not math.isfinite(float(value)) else value
    }


def _parts(*, ray: bool) -> dict[str, Part]:
    if ray:
        from jobs.accept.on_ray import PARTS

        return dict(PARTS)
    from jobs.accept import arithmetic, facts, learning, speed, steps

    return {
        "the machine": facts.facts,
        "gradients beside float64": arithmetic.gradients,
        "joints beside the CPU's": arithmetic.joints,
        "bad steps, and waits of the host": steps.bad_steps,
        "copies, and resuming": steps.copies,
        "compilation": speed.compilation,
        "speed and memory": speed.speed,
        "input": speed.feeding,
        "learning": learning.learning,
        "a process group": learning.group,
    }


def _parser() -> ArgumentParser:
    by_module = Path(sys.argv[0]).name == "__main__.py"
    parser = ArgumentParser(
        prog="python -m jobs.accept" if by_module else None,
        description="Check that training is right and fast on this machine. "
        "Needs torch, NumPy and OpenCV alone; --ray needs the whole environment.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the results")
    text = "auto: a GPU where there is one; on a CPU the checks are smaller"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=text)
    text = "minutes of training on a GPU (1)"
    parser.add_argument("--minutes", type=float, default=1.0, help=text)
    text = "check training on a Ray cluster of this machine instead, with two workers"
    parser.add_argument("--ray", action="store_true", help=text)
    return parser


if __name__ == "__main__":
    main()
