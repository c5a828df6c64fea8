"""Commands as jobs of Slurm, each with a Ray cluster in its allocation (jobs/cluster/slurm.sbatch).

What is submitted runs in the folder where it was, which the nodes share, with this Python.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.io.installation import python_path

_LOOK_S = 0.5
# Options of scancel by which the batch script lets its command end in order.
_STOP = ("--batch", "--signal=INT")
# States after which a job prints no more; one that is requeued waits again.
_FINAL = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
    }
)
# Slurm's number for "not known yet", in the name of an output file.
_UNKNOWN = "4294967294"


class SlurmJob:
    """A job of Slurm, of an array the first task, which runs the command."""

    def __init__(self, name: str) -> None:
        self.name = name
        tasks = sorted(map(int, re.findall(r"\bArrayTaskId=(\d+)", self._shown())))
        if tasks:
            self.name = f"{name}_{tasks[0]}"
        self._file = Path(self._fields()["StdOut"].replace(_UNKNOWN, f"{min(tasks, default=0)}"))

    def output(self) -> Iterator[str]:
        """Yield what the job prints, also after it was requeued."""
        position, is_over = 0, False
        while True:
            try:
                with self._file.open("rb") as file:
                    file.seek(position)
                    part = file.read()
            except FileNotFoundError:
                part = b""  # it waits for its nodes
            position += len(part)
            yield part.decode(errors="replace")
            if is_over:
                return
            # What it printed last is read once more.
            is_over = not part and self._fields()["JobState"] in _FINAL
            time.sleep(_LOOK_S)

    def stop(self) -> None:
        """Make the job's command keep a checkpoint and end; Slurm does not run it again."""
        waits = self._fields()["JobState"] == "PENDING"
        _slurm("scancel", *(() if waits else _STOP), self.name)

    def result(self) -> tuple[str, int]:
        """Return how the job ended, and its exit status."""
        fields = self._fields()
        status, _, signal = fields["ExitCode"].partition(":")
        is_done = fields["JobState"] == "COMPLETED"
        return fields["JobState"].lower(), 0 if is_done else int(status) or 128 + int(signal)

    def commands(self) -> list[str]:
        """Return the commands that follow the job from elsewhere, and stop it."""
        stop = shlex.join(["scancel", *_STOP, self.name])
        return [shlex.join(["tail", "-n", "+1", "-F", str(self._file)]), stop]

    def _fields(self) -> dict[str, str]:
        return dict(word.partition("=")[::2] for word in self._shown().split())

    def _shown(self) -> str:
        return _slurm("scontrol", "--oneliner", "show", "job", self.name)


def submit(script: Path, options: Sequence[str], words: Sequence[str]) -> SlurmJob:
    """Submit a command with options of sbatch. Raises ConnectionError if Slurm refuses it."""
    environment = {"PYTHON": sys.executable, "PYTHONPATH": python_path()}
    answer = _slurm("sbatch", "--parsable", *options, str(script), *words, **environment)
    return SlurmJob(answer.partition(";")[0])


def _slurm(*words: str, **environment: str) -> str:
    """Return the answer of a command of Slurm's. Raises ConnectionError if it has none."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, env=os.environ | environment, check=True
        )
    except FileNotFoundError:
        raise ConnectionError(
            f"no {words[0]} on this machine: submit from a login node of the Slurm cluster"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        reason = lines[-1].removeprefix(f"{words[0]}: error: ")
        raise ConnectionError(f"Slurm refused {words[0]}: {reason}") from None
    return done.stdout.strip()
