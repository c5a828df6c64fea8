"""A run's journal as a sweep reads it: the epochs in order, and whether the run has ended."""

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.run.journal import Entry, Journal
from pipeline.settings import OptimSettings

# A tag of a trial's run: why it was stopped before its last epoch.
STOPPED_TAG = "sweep.stopped"
# A tag of a run that was not trained: the run whose network was cut to fewer stacks.
CUT_TAG = "sweep.cut_from"


def reports(journal: Journal, metric: str) -> list[dict[str, Any]]:
    """Return the report to Ray Tune of each epoch in the journal, in order.

    `score` is the best value of `metric` so far, reached in `best_epoch`, and
    `current` that of the epoch itself. `seconds` is the run's duration over all
    its starts, `samples_per_s` the median of the epochs so far, NaN in a run that was not trained.
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
        if "samples_per_s" in values:
            speeds.append(values["samples_per_s"])
        found.append(
            {
                "epoch": epoch,
                "samples": int(values["samples"]),
                "score": score,
                "current": values[metric],
                "best_epoch": best_epoch,
                "seconds": seconds,
                "samples_per_s": statistics.median(speeds) if speeds else math.nan,
            }
        )
    return found


def is_whole(report: Mapping[str, Any], optim: OptimSettings) -> bool:
    """Tell from a run's last report whether it has had all its epochs, or has ended itself early.

    An empty report is that of a run without an epoch.
    """
    epoch = report.get("epoch", 0)
    return optim.is_over(epoch, epoch - report.get("best_epoch", 0))


def last_of(journal: Journal) -> tuple[int, float]:
    """Return the training samples before a run's last evaluation, and its duration in seconds."""
    timed = list(_timed(journal))
    samples = [e.content["values"].get("samples", 0) for e, _ in timed if e.kind == "metrics"]
    return int(max(samples, default=0)), timed[-1][1] if timed else 0.0


def _timed(journal: Journal) -> Iterator[tuple[Entry, float]]:
    """Yield each entry with the run's duration so far in seconds, without pauses between starts."""
    seconds, before_ms = 0.0, 0
    for entry in journal.entries():
        if entry.kind != "run":
            seconds += (entry.time_ms - before_ms) / 1000
        before_ms = entry.time_ms
        yield entry, seconds


def has_finished(journal: Journal) -> bool:
    """Tell whether the last start of a run ended as FINISHED, early or not."""
    return _end(journal) == "FINISHED"


def has_ended(journal: Journal) -> bool:
    """Tell whether the journal holds the end of the last start of a run."""
    return _end(journal) is not None


def was_stopped(journal: Journal) -> bool:
    """Tell whether the last start of a run was stopped for good before its last epoch."""
    starts = [entry.seq for entry in journal.entries() if entry.kind == "run"]
    tags = [e.seq for e in journal.entries() if STOPPED_TAG in e.content.get("tags", {})]
    return bool(tags) and tags[-1] > starts[-1] and has_ended(journal)


def is_cut(journal: Journal) -> bool:
    """Tell whether a run was not trained, but is the network of another run, cut."""
    return any(CUT_TAG in entry.content.get("tags", {}) for entry in journal.entries())


def _end(journal: Journal) -> str | None:
    """Return the status that the last start of a run ended with; None if it has not ended."""
    ends = [e.content.get("status") for e in journal.entries() if e.kind in ("run", "end")]
    return ends[-1] if ends else None
