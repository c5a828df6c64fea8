"""Notices that a rank makes no progress any more, says where it is stuck, and ends it, so that it is started again."""

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
from pipeline.io.console import say
from pipeline.training.probes import Mark, ProgressMarker

# What a rank ends with that has hung: "temporary failure, try again".
STATUS = os.EX_TEMPFAIL
# Reports of hangs, in a run's folder.
HANGS = "hangs"
# Looked at so many times within the time that a hang takes to be one, and at least every few seconds.
_LOOKS, _LOOK_EVERY_S = 10, 10.0
# A rank that only waits for another one ends later, so that the one that is stuck is the first.
_WAITING = 1.25
_STANDARD_ERROR = 2


class Watchdog:
    """Watches the marker of one rank from a thread of its own while the context lasts.

    Without progress for `patience_s` it says who is stuck, with the stacks of
    all threads, and keeps that in the run's folder too. A tenth of that later, or of a quarter more if the rank only
    waits for another, it ends the process. `start` must be the
    same on all ranks of one start of the run, and another for the next.
    """

    def __init__(
        self,
        marker: ProgressMarker,
        folder: Path,
        start: str,
        rank: int,
        workers: int,
        patience_s: float,
    ) -> None:
        self._marker, self._folder, self._start = marker, folder, start
        self._rank, self._workers, self._patience_s = rank, workers, patience_s
        self._heartbeats = Heartbeats(folder, start)
        self._watched = threading.current_thread()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        # The mark that the rank is known to be stuck at, and how long it may be.
        self._noticed: tuple[Mark, float] | None = None
        self._is_mute = False

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
        every_s = min(_LOOK_EVERY_S, self._patience_s / _LOOKS)
        while True:
            # Should this thread itself be held up, by the disk or by code that doesn't let go of
            # Python's lock, this needs neither.
            faulthandler.dump_traceback_later(self._patience_s, exit=True, file=_STANDARD_ERROR)
            mark = self._marker.last
            still_s = time.monotonic() - mark.at
            self._tell(mark, still_s)
            if still_s >= self._patience_s:
                self._judge(mark, still_s)
            if self._over.wait(every_s):
                self._heartbeats.remove(self._rank)
                return

    def _tell(self, mark: Mark, still_s: float) -> None:
        """Tell the other ranks; that it can't be told is said once, and does not keep this one from being watched."""
        beat = Heartbeat(
            start=self._start,
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
                say(
                    f"rank {self._rank}: no heartbeat, a hang could not be told from others: {error}"
                )
            self._is_mute = True

    def _judge(self, mark: Mark, still_s: float) -> None:
        """Speak at the first look at which a rank is stuck; at a later one end it."""
        if self._noticed is None or self._noticed[0] is not mark:
            beats = self._heartbeats.read(self._rank, self._workers)
            others = stuck(beats, self._workers, self._patience_s / 2)
            is_waiting = bool(others) and self._rank not in others
            self._noticed = mark, self._patience_s * (_WAITING if is_waiting else 1.0)
            self._report(mark, still_s, others, is_waiting)
        elif still_s >= self._noticed[1]:
            say(f"rank {self._rank}: ended with status {STATUS}, to be started again")
            sys.stdout.flush()
            os._exit(STATUS)

    def _report(
        self, mark: Mark, still_s: float, others: Mapping[int, str], is_waiting: bool
    ) -> None:
        """Say that this rank is stuck, and where; of one that only waits the stacks go to its file alone."""
        who = (
            f"rank {self._rank} of {self._workers} (host {socket.gethostname()}, pid {os.getpid()})"
        )
        lines = [f"HANG: {who} has made no progress for {still_s:.0f} s, since {mark.what}"]
        lines += [f"  {sentence}" for rank, sentence in others.items() if rank != self._rank]
        if self._rank in others:
            lines.append("  the other ranks wait for this one")
        if is_waiting:
            lines.append("  so this one only waits")
        stacks = self._stacks()
        path = self._folder / HANGS / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-rank_{self._rank:05d}.txt"
        say("\n".join([*lines, f"  stacks: {path}"] if is_waiting else [*lines, *stacks]))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([*lines, *stacks]) + "\n")
        except OSError as error:
            say(f"rank {self._rank}: {path}: not written: {error}")

    def _stacks(self) -> list[str]:
        """Stacks of all threads but the watchdog's, that of the one that is watched first."""
        frames = sys._current_frames()
        threads = [thread for thread in threading.enumerate() if thread is not self._thread]
        threads.sort(key=lambda thread: thread is not self._watched)
        return [
            f"thread {thread.name}:\n" + "".join(traceback.format_stack(frames[thread.ident]))
            for thread in threads
            if thread.ident in frames
        ]
