"""Commands as jobs of Slurm, each with a Ray cluster in its allocation (jobs/cluster/slurm.sbatch).

A submitted command runs with this Python, in the folder of its submission, which nodes share.
"""

import codecs
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.io.installation import python_path

# Seconds between two looks, and for which Slurm's controller may be away.
_LOOK_S, _PATIENCE_S = 0.5, 60.0
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
    """A job of Slurm. For an array it is the first task, which runs the command."""

    def __init__(self, name: str) -> None:
        self.name = name
        shown = _patient(self._shown)
        tasks = sorted(map(int, re.findall(r"\bArrayTaskId=(\d+)", shown)))
        if tasks:
            self.name = f"{name}_{tasks[0]}"
            shown = _patient(self._shown)
        self._file = Path(_fields(shown)["StdOut"].replace(_UNKNOWN, f"{min(tasks, default=0)}"))

    def output(self) -> Iterator[str]:
        """Yield what the job prints, also after it was requeued."""
        position, is_over, lost_since = 0, False, math.inf
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            try:
                with self._file.open("rb") as file:
                    file.seek(position)
                    part = file.read()
            except FileNotFoundError:
                part = b""  # it waits for its nodes
            position += len(part)
            yield decoder.decode(part, final=is_over)
            if is_over:
                return
            if not part:
                try:
                    # What it printed last is read once more.
                    is_over = _fields(self._shown())["JobState"] in _FINAL
                    lost_since = math.inf
                except ConnectionError:
                    lost_since = min(lost_since, time.monotonic())
                    if time.monotonic() - lost_since > _PATIENCE_S:
                        raise
            time.sleep(_LOOK_S)

    def stop(self) -> None:
        """Make the job's command keep a checkpoint and end; Slurm does not run it again."""
        waits = _fields(_patient(self._shown))["JobState"] == "PENDING"
        _patient(lambda: _slurm("scancel", *(() if waits else _STOP), self.name))

    def result(self) -> tuple[str, int]:
        """Return how the job ended, and its exit status."""
        fields = _fields(_patient(self._shown))
        status, _, signal = fields["ExitCode"].partition(":")
        is_done = fields["JobState"] == "COMPLETED"
        return fields["JobState"].lower(), 0 if is_done else int(status) or 128 + int(signal)

    def commands(self) -> list[str]:
        """Return the commands that follow the job from elsewhere, and stop it."""
        stop = shlex.join(["scancel", *_STOP, self.name])
        return [shlex.join(["tail", "-n", "+1", "-F", str(self._file)]), stop]

    def _shown(self) -> str:
        return _slurm("scontrol", "--oneliner", "show", "job", self.name)


def submit(script: Path, options: Sequence[str], words: Sequence[str]) -> SlurmJob:
    """Submit a command with options of sbatch. Raises ConnectionError if Slurm refuses it."""
    environment = {"PYTHON": sys.executable, "PYTHONPATH": python_path()}
    answer = _slurm("sbatch", "--parsable", *options, str(script), *words, **environment)
    return SlurmJob(answer.partition(";")[0])


def _fields(shown: str) -> dict[str, str]:
    """Return what scontrol shows of a job by name; values may have blanks."""
    return dict(field.partition("=")[::2] for field in re.split(r"\s+(?=[\w:/]+=)", shown))


def _patient(ask: Callable[[], str]) -> str:
    """Ask again while Slurm's controller is away. Raises ConnectionError if it stays away."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except ConnectionError:
            if time.monotonic() > end:
                raise
        time.sleep(_LOOK_S)


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
