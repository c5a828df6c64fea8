"""Sends a run's journal to MLflow on a thread beside the run."""

import threading
import traceback
from pathlib import Path

from pipeline.io.console import say, say_text
from pipeline.io.redaction import redacted
from pipeline.io.text import briefly
from pipeline.io.threads import beside
from pipeline.run.journal import JOURNAL_NAME, SYSTEM_NAME
from pipeline.run.ownership import SupersededError, Writer
from pipeline.tracking.client import AwayError
from pipeline.tracking.sync import JournalSync
from pipeline.tracking.sync_state import Backlog

# Seconds between checks of the journal, and the longest between retries while MLflow is away.
_CHECK_S, _LONGEST_S = 1.0, 30.0
# Consecutive failures before MLflow is reported as away: a closed connection alone is not.
_FAILURES = 2


class Uploader:
    """A thread that sends new entries of the journal in `folder` to MLflow at `uri`.

    Failures of MLflow do not reach the caller: entries wait on disk. The thread prints when MLflow
    is away, and when it is back. It ends once another start than `writer`'s owns the run.
    """

    def __init__(self, folder: Path, uri: str, writer: Writer | None = None) -> None:
        self._folder, self._uri, self._shown = folder, uri, redacted(uri)
        self._writer = writer
        self._closing = threading.Event()
        self._failures, self._reason, self._summary = 0, "", ""
        # A daemon, so that a server that hangs can't keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="uploader", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Begin to try a last time, in haste: the run's end is sent beside what waits before it."""
        self._closing.set()
        # What fails there is tried again in its turn.
        beside(lambda: JournalSync(self._folder, self._uri, self._writer).end_ahead(), "end")

    def close(self, patience_s: float) -> Backlog:
        """Try a last time, for at most `patience_s` seconds; return what MLflow lacks then.

        Raises ValueError if the journal is damaged.
        """
        self._closing.set()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self._reason = self._reason or f"the upload takes longer than {patience_s:g} s"
        return JournalSync(self._folder, self._uri).backlog(self._reason)

    def _work(self) -> None:
        try:
            self._send_until_closed()
        except SupersededError as error:
            self._reason = str(error)
        except Exception as error:
            # A bug in the upload must not end the run. jobs.deliver can send the rest later.
            self._reason = f"{type(error).__name__}: {briefly(error)}"
            say_text(f"the upload to MLflow has stopped:\n{traceback.format_exc()}")

    def _send_until_closed(self) -> None:
        sync = JournalSync(self._folder, self._uri, self._writer)
        pause_s, sent = _CHECK_S, -1
        is_last = False
        while not is_last:
            is_last = self._closing.wait(pause_s)
            size = self._size()
            if size == sent:
                continue
            try:
                sync.send()
            # The disk may be full, too.
            except (AwayError, OSError) as error:
                self._failed(sync, error)
                pause_s = min(_LONGEST_S, 2 * pause_s)
            else:
                if self._failures >= _FAILURES:
                    back = "" if self._summary else " is back, and"
                    say(f"MLflow at {self._shown}{back} has all that waited")
                self._failures, self._reason = 0, ""
                pause_s, sent = _CHECK_S, size

    def _size(self) -> int:
        paths = (self._folder / name for name in (JOURNAL_NAME, SYSTEM_NAME))
        return sum(path.stat().st_size for path in paths if path.exists())

    def _failed(self, sync: JournalSync, error: AwayError | OSError) -> None:
        self._failures += 1
        self._reason = redacted(str(error))
        self._summary = error.summary if isinstance(error, AwayError) else ""
        if self._failures == _FAILURES:
            waiting = sum(sync.backlog().waiting.values())
            say(
                f"{self._summary or f'MLflow at {self._shown} does not answer'}: "
                f"{waiting} entries wait on disk, "
                f"and training continues ({self._reason:.300})"
            )
