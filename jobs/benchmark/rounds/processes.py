"""Variants of training as processes that take turns: one trains while the others are stopped."""

import json
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from jobs.benchmark.timing import environment, order
from pipeline.io.atomic import atomic_write
from pipeline.io.console import say
from pipeline.io.processes import cpu_seconds, descendants, send

_POLL_S = 0.01
# A variant's main function: takes settings by dotted key and the folder of its files.
Target = Callable[[dict[str, Any], Path], None]


class RoundFiles:
    """Files by which a variant's process and this one tell each other where a round stands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ready(self, number: int) -> Path:
        """File with the process that trains; written when it waits for the round."""
        return self._folder / f"ready-{number}.json"

    def go(self, number: int) -> Path:
        """Empty file; written when the process may train."""
        return self._folder / f"go-{number}"

    def done(self, number: int) -> Path:
        """File with the measurements; written when the process has trained."""
        return self._folder / f"done-{number}.json"


class VariantProcess(AbstractContextManager["VariantProcess"]):
    """A process that trains an epoch a round, until all epochs are done or the block ends."""

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
        self.name, self.files = name, RoundFiles(folder)
        with environment(inherits):
            self._process: BaseProcess = get_context("spawn").Process(
                target=target, args=(settings, folder), name=name
            )
            self._process.start()

    def __exit__(self, *_: object) -> None:
        # SIGTERM, so that a process with a Ray cluster shuts it down.
        self._process.terminate()
        self._process.join()

    def read(self, path: Path) -> dict[str, Any]:
        """Wait for one of its files and read it. Raises RuntimeError if the process failed."""
        wait_until(lambda: self._is_sound() and path.exists())
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    def wait_for_end(self) -> None:
        """Wait until it has ended. Raises RuntimeError if it failed."""
        wait_until(lambda: self._is_sound() and self._process.exitcode == 0)

    def processes(self) -> set[int]:
        """Return it and the processes that it has started; empty once it has ended."""
        pid = self._process.pid
        assert pid is not None
        return {pid, *descendants(pid)} if self._process.is_alive() else set()

    def others_cpu_s(self, trainer: int) -> float:
        """Return the CPU seconds so far of all its processes but the one that trains."""
        total = 0.0
        for pid in self.processes() - {trainer}:
            with suppress(OSError):  # it has just ended
                total += cpu_seconds(pid)
        return total

    def _is_sound(self) -> bool:
        if self._process.exitcode:
            raise RuntimeError(f"{self.name!r} ended with status {self._process.exitcode}")
        return True


def run_rounds(
    variants: Mapping[str, VariantProcess], rounds: int
) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield the variants' measurements of each round: a warm-up round and `rounds` more."""
    for variant in variants.values():
        variant.read(variant.files.ready(0))
    for number in range(rounds + 1):
        names = order(variants, number)
        yield {name: _run(variants, name, number, last=number == rounds) for name in names}
        say(f"  round {number} of {rounds} done")


def _run(
    variants: Mapping[str, VariantProcess], name: str, number: int, *, last: bool
) -> dict[str, Any]:
    """Let a variant train, evaluate and report an epoch while the others are stopped."""
    variant = variants[name]
    files = variant.files
    others = [other for other in variants.values() if other is not variant]
    with stopped({pid for other in others for pid in other.processes()}):
        trainer = variant.read(files.ready(number))["pid"]
        start, before = time.monotonic(), variant.others_cpu_s(trainer)
        files.go(number).touch()
        measured = variant.read(files.done(number))
        measured["others_cpu_s"] = variant.others_cpu_s(trainer) - before
        measured["seconds"] = time.monotonic() - start
        if last:
            variant.wait_for_end()
        else:
            variant.read(files.ready(number + 1))
    return measured


@contextmanager
def stopped(processes: Collection[int]) -> Iterator[None]:
    """Stop processes for the block."""
    try:
        send(processes, signal.SIGSTOP)
        yield
    finally:
        send(processes, signal.SIGCONT)


def wait_until(is_so: Callable[[], bool], limit_s: float = 600.0) -> None:
    """Poll until a condition holds. Raises TimeoutError past the limit."""
    end = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"the process of a variant did not answer for {limit_s:g} s")
        time.sleep(_POLL_S)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(content))
