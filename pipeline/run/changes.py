"""The differences between a run and what is asked for under the same name."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.io.redaction import redacted
from pipeline.run.journal import Journal
from pipeline.run.metadata import CheckpointMetadata
from pipeline.settings import Settings

# Differences that an error lists; the rest is counted.
_LISTED = 5


def facts_of(settings: Settings, data: Mapping[str, str]) -> dict[str, str]:
    """Return what decides a run's outcome as text by key; `data` are checksums of train and val.

    `data.train` and `data.val` are the places of the data.
    """
    facts = {key: str(value) for key, value in settings.decisive().items()}
    facts |= {key: redacted(str(settings.flat()[key])) for key in ("data.train", "data.val")}
    return facts | {f"data.{key}.checksum": checksum for key, checksum in data.items()}


def former_facts(folder: Path, checkpoint: CheckpointMetadata | None) -> dict[str, str]:
    """Return the facts of the run in `folder`, as far as it has recorded them.

    They are those of its newest `checkpoint`; what that lacks is taken from the last start.
    """
    starts = [entry.content for entry in Journal(folder).entries() if entry.kind == "run"]
    facts: dict[str, str] = {}
    if starts:
        # Former versions showed more of a URI.
        facts |= {key: redacted(value) for key, value in starts[-1]["params"].items()}
        facts |= {key: tag for key, tag in starts[-1]["tags"].items() if key.startswith("data.")}
    if checkpoint is not None:
        facts |= facts_of(checkpoint.settings, checkpoint.data)
    return facts


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Describe the facts that differ by key. Those that are not known from `before` do not count.

    Data are compared by checksum, and only without one by place. Another number of epochs counts
    only where the learning rate depends on it. The number of workers never counts: a run may
    resume on a larger or smaller cluster.
    """
    ignored = {key.removesuffix(".checksum") for key in before if key.endswith(".checksum")}
    ignored.add("ray.workers")
    if "cosine" not in (before.get("optim.schedule"), now["optim.schedule"]):
        ignored.add("optim.epochs")
    return {
        key: f"{key}: {before[key]} there, {value} here"
        for key, value in now.items()
        if before.get(key, value) != value and key not in ignored
    }


def listed(differences: Mapping[str, str]) -> str:
    """Join the descriptions of differences, a handful at most."""
    found = list(differences.values())
    more = len(found) - _LISTED
    return "; ".join(found[:_LISTED]) + (f"; and {more} more" if more > 0 else "")
