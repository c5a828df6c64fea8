"""What a run's journal says to a sweep: its epochs as they came, and how it stands."""

import math
import statistics
from collections.abc import Iterator
from typing import Any

from pipeline.run.journal import Entry, Journal

# A tag of a trial's run: why it was stopped before its last epoch.
STOPPED_TAG = "sweep.stopped"
# Entries that say that a run starts or ends.
_COURSE = ("run", "end")


def reports(journal: Journal, metric: str) -> list[dict[str, Any]]:
    """What Ray Tune is told of each epoch in the journal, in order.

    `score` is the best value of `metric` so far, of epoch `best_epoch`;
    `current` the epoch's own; `seconds` is how long the run has gone on, over
    all its starts; `samples_per_s` the median of the epochs so far.
    """
    found: list[dict[str, Any]] = []
    score, best_epoch, speeds = -math.inf, 0, list[float]()
    for entry, seconds in _timed(journal):
        values = entry.content["values"] if entry.kind == "metrics" else {}
        if metric not in values or "samples" not in values:
            continue
        epoch = int(values["epoch"])
        if values[metric] > score:
            score, best_epoch = values[metric], epoch
        speeds.append(values["samples_per_s"])
        found.append(
            {
                "epoch": epoch,
                "samples": int(values["samples"]),
                "score": score,
                "current": values[metric],
                "best_epoch": best_epoch,
                "seconds": seconds,
                "samples_per_s": statistics.median(speeds),
            }
        )
    return found


def last_of(journal: Journal) -> tuple[int, float]:
    """Training samples that a run has evaluated itself after, and seconds that it has gone on."""
    timed = list(_timed(journal))
    samples = [
        int(entry.content["values"]["samples"])
        for entry, _ in timed
        if entry.kind == "metrics" and "samples" in entry.content["values"]
    ]
    return max(samples, default=0), timed[-1][1] if timed else 0.0


def _timed(journal: Journal) -> Iterator[tuple[Entry, float]]:
    """Entries, each with the seconds that the run had gone on; what lies between a start's last sign and the next start does not count."""
    seconds, heard_ms = 0.0, 0
    for entry in journal.entries():
        if entry.kind != "run":
            seconds += (entry.time_ms - heard_ms) / 1000
        heard_ms = entry.time_ms
        yield entry, seconds


def has_finished(journal: Journal) -> bool:
    """Whether the last start of a run has come to the end that it was to have, early or not."""
    ends = [entry.content.get("status") for entry in journal.entries() if entry.kind in _COURSE]
    return bool(ends) and ends[-1] == "FINISHED"


def has_ended(journal: Journal) -> bool:
    """Whether the last start of a run has come to an end that is recorded."""
    kinds = [entry.kind for entry in journal.entries() if entry.kind in _COURSE]
    return bool(kinds) and kinds[-1] == "end"


def was_stopped(journal: Journal) -> bool:
    """Whether the last start of a run was stopped before its last epoch, for good."""
    starts = [entry.seq for entry in journal.entries() if entry.kind == "run"]
    tags = [e.seq for e in journal.entries() if STOPPED_TAG in e.content.get("tags", {})]
    return bool(tags) and tags[-1] > starts[-1] and has_ended(journal)
