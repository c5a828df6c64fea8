"""Samples that can't be used: stop at the first, or pass over a stated number of them."""

from threading import Lock

from pipeline.shards.sample import BadSampleError


class BadSamples:
    """The samples that were passed over, each counted once; safe to share between threads.

    `found` holds what is wrong with each, by its position or place.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.found: dict[int | str, str] = {}
        self._lock = Lock()

    def note(self, at: int | str, error: BadSampleError) -> None:
        """Count a sample. Raises BadSampleError if it is one more than allowed."""
        with self._lock:
            self.found.setdefault(at, str(error))
            count = len(self.found)
        if count > self.allowed:
            known = f" (bad sample {count}, data.bad_samples allows {self.allowed})"
            raise BadSampleError(f"{error}{known if self.allowed else ''}") from error
