"""When a command reached the stages of its start: noted only where the environment names a file for it."""

import json
import os
import time
from pathlib import Path

# Of the environment: Ray's workers on this machine inherit it.
FILE_VARIABLE = "HOURGLASS_STAGES"


def reached(stage: str) -> None:
    """Note that this process has reached `stage` now, if HOURGLASS_STAGES names a file."""
    path = os.environ.get(FILE_VARIABLE)
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps([stage, time.time()]) + "\n")


def stages_in(path: Path) -> dict[str, float]:
    """Read when each stage was first reached, in seconds of the clock `time.time`."""
    found: dict[str, float] = {}
    for line in path.read_text().splitlines():
        stage, at = json.loads(line)
        found.setdefault(stage, at)
    return found
