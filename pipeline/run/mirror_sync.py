"""Threads that keep a run's folder and its copy in a bucket equal, beside the run."""

import threading
import time
from collections.abc import Callable
from typing import Self

from pipeline.io.console import say
from pipeline.io.objects import StoreError
from pipeline.io.redaction import redacted
from pipeline.run.layout import LostError
from pipeline.run.mirror import Mirror, described
from pipeline.run.ownership import Owner, SupersededError, Writer

# Seconds between looks at folder and bucket, and the longest between retries.
_LOOK_S, _LONGEST_S = 2.0, 15.0
# Seconds to wait for a request that is under way when the threads end.
_END_S = 5.0
# Failures in a row before the store is reported as away: one alone is not worth a line.
_FAILURES = 2
# Seconds to wait for uploads when a process hands the run over or ends.
PATIENCE_S = 120.0


def join(mirror: Mirror, owner: Owner) -> Writer:
    """Bring the run to this machine, and claim its next generation for a process of the owner.

    Raises StoreError if the store stays away, and SupersededError if another start owns the run.
    """
    writer: Writer | None = None

    def attempt() -> None:
        nonlocal writer
        mirror.pull()
        mirror.note_claims()
        mirror.check_owner(owner)
        # A claim that the store did not take is entered again, unless there is a newer one.
        if writer is None or not writer.is_newest():
            writer = Writer.of_worker(mirror.folder, owner)
        mirror.claim(writer)

    until(attempt, PATIENCE_S)
    assert writer is not None
    return writer


class MirrorSync:
    """Threads that keep a run's folder and its copy in the bucket equal, and the claim alive.

    While this process `writes` it uploads, otherwise it brings what others upload into the folder.
    Failures of the store do not reach the caller: what is not sent waits in the folder.
    """

    def __init__(self, mirror: Mirror, writer: Writer, *, is_driver: bool) -> None:
        self._mirror, self._writer, self._is_driver = mirror, writer, is_driver
        self._writes = True
        self._kept = mirror.keep()
        self._turn = threading.Lock()
        self._over = threading.Event()
        self._failures = 0
        self._has_asked = False
        self._threads = [
            threading.Thread(target=self._work, args=(step,), name=step.__name__, daemon=True)
            for step in (self._move, self._attend)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        if isinstance(error, SupersededError):
            self.stop()
        else:
            self.close()

    def upload(self) -> None:
        """Upload all that the bucket lacks. Raises StoreError if the store stays away."""

        def push() -> bool:
            with self._turn:
                return self._mirror.push(self._writer)

        until(push, PATIENCE_S)

    def hand_over(self) -> None:
        """Upload all, and let the workers write. Raises StoreError if the store stays away."""
        self.upload()
        with self._turn:
            self._writes = False

    def take_back(self) -> None:
        """Claim the next generation for the driver: the workers have ended, or are cut off.

        Raises StoreError if the store stays away, and SupersededError.
        """
        try:
            with self._turn:
                # After this, to join replaces none of the files that only this process has changed.
                until(self._mirror.follow, PATIENCE_S)
                join(self._mirror, self._writer.owner)
                self._writes = True
        except StoreError as error:
            raise StoreError(
                f"{error}; the workers have ended, and the same command continues from what they "
                "have kept, once the store answers"
            ) from None

    def start_over(self, remove: Callable[[], None]) -> None:
        """Remove files of the folder, of which nothing is uploaded meanwhile."""
        with self._turn:
            self._mirror.forget()
            remove()

    def close(self) -> None:
        """Upload the rest, for some time, and print what the bucket lacks then."""
        try:
            if self._writes:
                self.upload()
        except StoreError as error:
            waiting = self._mirror.waiting()
            say(
                f"{redacted(self._mirror.location)} lacks {described(waiting)}: {error}; the same "
                f"command on this machine sends it from {self._mirror.folder}"
            )
        finally:
            self.stop()

    def stop(self) -> None:
        """End the threads without an upload."""
        self._over.set()
        for thread in self._threads:
            thread.join(_END_S)
        self._kept.close()

    def _work(self, step: Callable[[], None]) -> None:
        pause_s = _LOOK_S
        while not self._over.wait(pause_s):
            try:
                step()
            except SupersededError:
                return  # those who write find out by themselves
            except LostError as error:
                say(str(error))
                return
            except (OSError, ValueError, NotImplementedError) as error:
                # A manifest that can't be read, or a request that the store does not know, is a
                # failure of the store like any other.
                pause_s = min(_LONGEST_S, 2 * pause_s)
                if step == self._move:
                    self._failed(error)
            else:
                pause_s = _LOOK_S
                if step == self._move:
                    self._succeeded()

    def _move(self) -> None:
        """Upload, or download what others have uploaded."""
        with self._turn:
            if self._over.is_set():
                return
            if self._writes:
                self._mirror.push(self._writer)
            else:
                self._mirror.follow()

    def _attend(self) -> None:
        """Note newer claims and requests to stop; the driver makes both."""
        self._mirror.look_for_claims()
        if self._is_driver:
            self._mirror.sign(self._writer.owner)
            self._has_asked = self._mirror.pass_stop_on(self._writer.owner, self._has_asked)
        else:
            self._mirror.receive_stop(self._writer.owner)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == _FAILURES:
            waiting = f"; to be sent later: {described(self._mirror.waiting())}"
            say(f"{error}: training continues{waiting if self._writes else ''}")

    def _succeeded(self) -> None:
        if self._failures >= _FAILURES:
            has_all = ", and has all that waited" if self._writes else ""
            say(f"{redacted(self._mirror.location)} answers again{has_all}")
        self._failures = 0


def until(attempt: Callable[[], bool | None], patience_s: float) -> None:
    """Attempt until the result is not False. Raises the last StoreError when the time is over."""
    end = time.monotonic() + patience_s
    while True:
        try:
            if attempt() is not False:
                return
        except StoreError:
            if time.monotonic() > end:
                raise
            time.sleep(1.0)
        else:
            time.sleep(0.05)
