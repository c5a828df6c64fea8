"""Detects that a rank hangs, reports where, and ends its process so that Ray restarts it."""

import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from pipeline.cluster.heartbeats import Heartbeat, Heartbeats, stuck
from pipeline.io.console import duration, say, say_text
from pipeline.training.probes import Mark, ProgressMarker

# Exit status of a rank that hung: "temporary failure, try again".
STATUS = os.EX_TEMPFAIL
# Folder of the reports, in a run's folder.
HANGS = "hangs"
# Checks of the marker within the patience; the longest time between two.
_CHECKS, _CHECK_EVERY_S = 10, 10.0
# A rank that only waits for another is ended later, so that the stuck one is the first.
_WAITING = 1.25
_STANDARD_ERROR = 2


class Watchdog:
    """A thread that watches the progress marker of one rank while the context lasts.

    Without progress for `patience_s` it names the stuck ranks and writes the stacks of all threads,
    also to a file in the run's folder. It ends the process at about 1.1 x `patience_s`, or 1.35 x
    if the rank only waits for another; 0 disables it. `generation` is that of the run's workers.
    """

    def __init__(
        self,
        marker: ProgressMarker,
        folder: Path,
        generation: int,
        rank: int,
        workers: int,
        patience_s: float,
    ) -> None:
        self._marker, self._folder = marker, folder
        self._rank, self._workers, self._patience_s = rank, workers, patience_s
        self._heartbeats = Heartbeats(folder, generation)
        self._watched = threading.current_thread()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        # The mark that the rank is stuck at, and the seconds after which it is ended.
        self._noticed: tuple[Mark, float] | None = None
        self._is_mute = False
        # The mark that was announced last, and the minutes that it had lasted.
        self._announced: tuple[Mark, int] | None = None

    def __enter__(self) -> Self:
        if self._patience_s:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._patience_s:
            self._over.set()
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        every_s = min(_CHECK_EVERY_S, self._patience_s / _CHECKS)
        while True:
            mark = self._marker.last
            patience_s = self._patience_s * mark.patience
            # This works even if the thread itself is blocked, by the disk or by code that holds
            # Python's lock.
            faulthandler.dump_traceback_later(patience_s, exit=True, file=_STANDARD_ERROR)
            still_s = time.monotonic() - mark.at
            self._publish(mark, still_s)
            if mark.patience > 1:
                self._announce(mark, still_s)
            if still_s >= patience_s:
                self._judge(mark, still_s, patience_s)
            if self._over.wait(every_s):
                self._heartbeats.remove(self._rank)
                return

    def _publish(self, mark: Mark, still_s: float) -> None:
        """Write the heartbeat. An error is printed once, and does not stop the watchdog."""
        beat = Heartbeat(
            rank=self._rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            stage=mark.stage,
            done=mark.done,
            what=mark.what,
            still_s=still_s,
        )
        try:
            self._heartbeats.write(beat)
        except OSError as error:
            if not self._is_mute:
                say(f"rank {self._rank}: can't write its heartbeat for the other ranks: {error}")
            self._is_mute = True

    def _announce(self, mark: Mark, still_s: float) -> None:
        """Print once a minute on rank 0 what takes long and is no hang."""
        minutes = int(still_s // 60)
        if self._rank == 0 and (mark, minutes) != self._announced:
            self._announced = mark, minutes
            say(f"{mark.what}: {duration(still_s)} so far" if minutes else f"{mark.what} ...")

    def _judge(self, mark: Mark, still_s: float, patience_s: float) -> None:
        """Report at the first check at which the rank is stuck; end it at a later one."""
        if self._noticed is None or self._noticed[0] is not mark:
            beats = self._heartbeats.read(self._rank, self._workers)
            others = stuck(beats, self._workers, patience_s / 2)
            is_waiting = bool(others) and self._rank not in others
            self._noticed = mark, patience_s * (_WAITING if is_waiting else 1.0)
            self._report(mark, still_s, others, is_waiting)
        elif still_s >= self._noticed[1]:
            say(f"rank {self._rank}: exits with status {STATUS}, to be restarted")
            sys.stdout.flush()
            os._exit(STATUS)

    def _report(
        self, mark: Mark, still_s: float, others: Mapping[int, str], is_waiting: bool
    ) -> None:
        """Report that this rank is stuck; if it only waits, its stacks go to the file alone."""
        name = f"rank {self._rank} of {self._workers}"
        name += f" (host {socket.gethostname()}, pid {os.getpid()})"
        lines = [f"HANG: {name} has made no progress for {still_s:.0f} s, since {mark.what}"]
        lines += [f"  {sentence}" for rank, sentence in others.items() if rank != self._rank]
        if self._rank in others:
            lines.append("  the other ranks wait for this one")
        if is_waiting:
            lines.append("  this rank only waits")
        stacks = self._stacks()
        path = self._folder / HANGS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-rank_{self._rank:05d}.txt"
        say_text("\n".join([*lines, f"  stacks: {path}"] if is_waiting else [*lines, *stacks]))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([*lines, *stacks]) + "\n")
        except OSError as error:
            say(f"rank {self._rank}: can't write {path}: {error}")

    def _stacks(self) -> list[str]:
        """Return the stacks of all threads but this one, that of the watched thread first."""
        frames = sys._current_frames()
        threads = [thread for thread in threading.enumerate() if thread is not self._thread]
        threads.sort(key=lambda thread: thread is not self._watched)
        return [
            f"thread {thread.name}:\n" + "".join(traceback.format_stack(frames[thread.ident]))
            for thread in threads
            if thread.ident in frames
        ]
