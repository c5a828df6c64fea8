"""Delivers a run's journal while the run goes on, beside whatever its process does."""

import threading
import traceback
from pathlib import Path

from pipeline.io.console import say
from pipeline.io.redaction import redacted
from pipeline.run.journal import JOURNAL_NAME, SYSTEM_NAME
from pipeline.tracking.client import AwayError
from pipeline.tracking.sync import JournalSync
from pipeline.tracking.sync_state import Backlog

# Seconds between looks at the journal, and at most between attempts while MLflow is away.
_LOOK_S, _LONGEST_S = 1.0, 30.0
# Failures in a row that make MLflow away: a connection that has just been closed is none.
_FAILURES = 2


class Uploader:
    """A thread that delivers the journal in `folder` to MLflow at `uri`, as soon as anything is added to it.

    Nothing that happens to MLflow reaches the caller: what can't be delivered
    waits on the disk. Says when MLflow is away, and when it is back.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder, self._uri, self._shown = folder, uri, redacted(uri)
        self._closing = threading.Event()
        self._failures, self._reason = 0, ""
        # A server that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="uploader", daemon=True)
        self._thread.start()

    def close(self, patience_s: float) -> Backlog:
        """Try a last time, for so many seconds at most. Returns what is left to deliver.

        Raises ValueError if the journal is damaged.
        """
        self._closing.set()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self._reason = self._reason or f"it has not taken all within {patience_s:g} s"
        return JournalSync(self._folder, self._uri).left(self._reason)

    def _work(self) -> None:
        try:
            self._deliver_until_closed()
        except Exception as error:
            # A slip of ours: the run is worth more than its delivery, which a person can take up again.
            self._reason = f"{type(error).__name__}: {error}"
            say(f"delivery to MLflow has stopped:\n{traceback.format_exc()}")

    def _deliver_until_closed(self) -> None:
        delivery = JournalSync(self._folder, self._uri)
        pause_s, delivered = _LOOK_S, -1
        is_last = False
        while not is_last:
            is_last = self._closing.wait(pause_s)
            size = self._size()
            if size == delivered:
                continue
            try:
                delivery.send()
            # Besides MLflow, the disk may be full.
            except (AwayError, OSError) as error:
                self._failed(delivery, str(error))
                pause_s = min(_LONGEST_S, 2 * pause_s)
            else:
                self._succeeded()
                pause_s, delivered = _LOOK_S, size

    def _size(self) -> int:
        paths = (self._folder / name for name in (JOURNAL_NAME, SYSTEM_NAME))
        return sum(path.stat().st_size for path in paths if path.exists())

    def _failed(self, delivery: JournalSync, reason: str) -> None:
        self._failures += 1
        self._reason = redacted(reason)
        if self._failures == _FAILURES:
            waiting = sum(delivery.left().waiting.values())
            say(
                f"MLflow at {self._shown} does not answer: {waiting} entries wait on disk, "
                f"and training goes on ({self._reason:.300})"
            )

    def _succeeded(self) -> None:
        if self._failures >= _FAILURES:
            say(f"MLflow at {self._shown} is back, and has all that waited")
        self._failures, self._reason = 0, ""
