"""A side of a comparison: a process that trains in turns with others, and stands still while it is not its turn."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

from jobs.benchmark.overhead.processes import family_cpu_s, stopped
from jobs.benchmark.overhead.turns import Turns
from jobs.benchmark.timing import environment

# What a side's process runs: it is told settings by dotted key and the folder of its turns.
Target = Callable[[dict[str, Any], Path], None]


class Side:
    """A process that trains in turns, alive until its epochs are over or the block ends; its environment is ours with `inherits`."""

    def __init__(
        self,
        name: str,
        target: Target,
        settings: dict[str, Any],
        folder: Path,
        *,
        inherits: Mapping[str, str],
    ) -> None:
        folder.mkdir()
        self.name, self.turns = name, Turns(folder)
        with environment(inherits):
            self.process: BaseProcess = get_context("spawn").Process(
                target=target, args=(settings, folder), name=name
            )
            self.process.start()

    def is_ready(self, turn: int) -> bool:
        """Whether it waits for the turn. Raises RuntimeError if it has failed."""
        self.check()
        return self.turns.ready(turn).exists()

    def is_done(self, turn: int) -> bool:
        """Whether it has taken the turn. Raises RuntimeError if it has failed."""
        self.check()
        return self.turns.done(turn).exists()

    def has_ended(self) -> bool:
        """Whether it has ended well. Raises RuntimeError if it has failed."""
        self.check()
        return self.process.exitcode == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # SIGTERM: a side with a Ray cluster then shuts it down.
        self.process.terminate()
        self.process.join()

    def trains(self, turn: int) -> int:
        """Number of the process that trains, which waits for the turn or takes it."""
        number: int = json.loads(self.turns.ready(turn).read_text())["pid"]
        return number

    def others_cpu_s(self, turn: int) -> float:
        """CPU seconds so far of all its processes but the one that trains."""
        return family_cpu_s(self.pid, but=self.trains(turn))

    @property
    def pid(self) -> int:
        """Number of the process that started all others."""
        assert self.process.pid is not None
        return self.process.pid

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop it for the duration, with all the processes that it has started."""
        with stopped(self.pid) if self.process.is_alive() else nullcontext():
            yield

    def check(self) -> None:
        """Raise RuntimeError if the process has failed, which has said why."""
        if self.process.exitcode:
            raise RuntimeError(f"the {self.name} side ended with status {self.process.exitcode}")
