"""What of a journal is sent after all else, since nothing should wait for it: files, texts, checkpoints as models."""

from collections.abc import Callable
from pathlib import Path

from pipeline import tracking
from pipeline.io.console import say
from pipeline.run.journal import Entry, Journal
from pipeline.tracking import Point, Run

PARCELS = ("file", "folder", "text", "model", "forget_model", "register")


def missing(journal: Journal, entry: Entry) -> Path | None:
    """What a parcel consists of, if it does not exist any more."""
    if "path" not in entry.content or entry.kind == "text" or _is_forgotten(journal, entry):
        return None
    path = journal.path_of(entry)
    return None if path.exists() else path


def send(run: Run, journal: Journal, entry: Entry) -> None:
    """Send a parcel to MLflow. Raises AwayError or RefusedError."""
    told = entry.content
    actions: dict[str, Callable[[], None]] = {
        "file": lambda: _send_file(run, journal, entry),
        "folder": lambda: tracking.log_folder(run, journal.path_of(entry), told["at"]),
        "text": lambda: tracking.log_text(run, told["text"], told["path"]),
        "model": lambda: _send_model(run, journal, entry),
        "forget_model": lambda: tracking.forget_model(run, told["name"]),
        "register": lambda: _register(run, entry),
    }
    actions[entry.kind]()


def _send_file(run: Run, journal: Journal, entry: Entry) -> None:
    told, path = entry.content, journal.path_of(entry)
    tracking.log_file(run, path, told["folder"])
    if "step" in told:
        tracking.log_image(run, path, told["folder"], told["step"], entry.time_ms)


def _send_model(run: Run, journal: Journal, entry: Entry) -> None:
    if _is_forgotten(journal, entry):
        return
    step = entry.content["step"]
    points = [
        Point(name=name, value=value, step=step, time_ms=time_ms)
        for name, value, time_ms in journal.points_of(step)
    ]
    tracking.log_model(run, journal.path_of(entry), step, points)


def _is_forgotten(journal: Journal, entry: Entry) -> bool:
    """Whether a model has been forgotten since it was entered; then its folder may be going."""
    return entry.kind == "model" and entry.content["name"] not in journal.models()


def _register(run: Run, entry: Entry) -> None:
    told = entry.content
    measured = told["metric"], told["value"], told["checksum"]
    say(tracking.register(run, told["name"], told["as"], *measured))
