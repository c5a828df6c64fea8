"""What a rank has trained on, step by step, written down for whoever checks a run from outside.

The product never reads it, so that it can bear witness against what the product says of itself.
"""

import json
import os
import time
from pathlib import Path
from typing import Self

from pipeline.pose.shapes import Positions

# Names the folder to write to, in the environment of the training processes; unset: nothing is written.
WITNESS_FOLDER = "HOURGLASS_WITNESS"


class Witness:
    """Adds a line of JSON for each step to a file of this process's own.

    `group` is the same for the ranks that train together, and no others'. What
    is written is the kernel's at once: it survives the process, though not the machine.
    """

    def __init__(self, folder: Path, run: str, group: str, rank: int, workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"{run}-{group}-{rank}.jsonl").open("ab", buffering=0)
        self._write(
            {"run": run, "group": group, "rank": rank, "workers": workers, "pid": os.getpid()}
        )

    def stepped(self, epoch: int, step: int, positions: Positions) -> None:
        """Note that step `step` (from 1) of epoch `epoch` (from 0) was taken on the samples at these positions."""
        self._write({"epoch": epoch, "step": step, "positions": positions.tolist()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, told: dict[str, object]) -> None:
        self._file.write(json.dumps({"time": time.time()} | told).encode() + b"\n")


def unwitnessed(epoch: int, step: int, positions: Positions) -> None:
    """Note nothing."""
