"""Contact sheets: people worth a look, drawn as stored and as training sees them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from pipeline.data.inspection.anomalies import Flags
from pipeline.data.inspection.columns import Columns
from pipeline.data.loader import SampleLoader
from pipeline.data.pictures import draw_augmented, draw_truth, png
from pipeline.pose.person import Visibility
from pipeline.settings import DataSettings

_PEOPLE = 12
_TITLES = {
    "random": "random people",
    "smallest": "smallest frames",
    "occluded": "most joints occluded or missing",
    "suspicious": "suspicious records",
}
SHEET_FILES = tuple(f"{name}-{kind}.png" for name in _TITLES for kind in ("stored", "training"))

# People by their rows in Columns. Sheets differ in length, so the axis is named but not bound.
Chosen = Int64[np.ndarray, " _chosen"]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Pictures of some people: PNG files by name; `captions` has each person's name and facts."""

    name: str
    title: str
    captions: tuple[tuple[str, str], ...]
    files: dict[str, bytes]


def choose(columns: Columns, found: Mapping[str, Flags], seed: int) -> dict[str, Chosen]:
    """Choose at most 12 people for each sheet, of those that training can use.

    These have a picture that can be decoded, and an annotated joint. The checks of `found`, which
    `anomalies` returns, take turns.
    """
    has_picture = np.array([not fault for fault in columns.unreadable], bool)
    drawable = np.flatnonzero(has_picture & columns.annotated.any(axis=1))
    random = np.random.default_rng(seed).permutation(drawable)[:_PEOPLE]
    missing = (columns.states == Visibility.MISSING).sum(axis=1)
    hidden = missing + (columns.states == Visibility.OCCLUDED).sum(axis=1)
    return {
        "random": np.sort(random),
        "smallest": drawable[np.argsort(columns.frames_px[drawable], kind="stable")][:_PEOPLE],
        "occluded": drawable[np.argsort(-hidden[drawable], kind="stable")][:_PEOPLE],
        "suspicious": _in_turns(found, set(drawable.tolist())),
    }


def _in_turns(found: Mapping[str, Flags], allowed: set[int]) -> Chosen:
    queues = [[row for row in flags if row in allowed] for flags in found.values()]
    ranked = sorted((rank, row) for queue in queues for rank, row in enumerate(queue))
    rows = dict.fromkeys(row for _, row in ranked)
    return np.array(list(rows)[:_PEOPLE], np.int64)


def draw_sheets(
    loader: SampleLoader,
    columns: Columns,
    found: Mapping[str, Flags],
    settings: DataSettings,
    seed: int,
) -> Iterator[Sheet]:
    """Draw every sheet that has people."""
    for name, rows in choose(columns, found, seed).items():
        if not len(rows):
            continue
        title = _TITLES[name]
        captions = zip(columns.names(rows.tolist()), _notes(rows, columns, found), strict=True)
        people = columns.positions[rows]
        stored = draw_truth(loader, people, f"{title}: stored crops")
        seen = draw_augmented(loader, settings, people, f"{title}: as training sees them")
        files = {f"{name}-stored.png": png(stored), f"{name}-training.png": png(seen)}
        yield Sheet(name=name, title=title, captions=tuple(captions), files=files)


def _notes(rows: Chosen, columns: Columns, found: Mapping[str, Flags]) -> Iterator[str]:
    for row in rows.tolist():
        states = columns.states[row]
        facts = [
            f"frame {columns.frames_px[row]:.0f} px",
            f"{(states == Visibility.OCCLUDED).sum()} joints occluded",
            f"{(states == Visibility.MISSING).sum()} missing",
        ]
        yield "; ".join(facts + [flags[row] for flags in found.values() if row in flags])
