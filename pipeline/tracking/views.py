"""The saved view of an experiment in MLflow's interface: scores first, with the charts for them.

MLflow 3.17 keeps such a view in a tag of the experiment, as JSON with the state of the page. Its
own interface writes the same when a view is saved; no function of MLflow's does.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.io.parsing import number_of, parse_json
from pipeline.run.layout import OVERLAYS
from pipeline.tracking.client import mlflow_client
from pipeline.tracking.runs import Run

_TAG, _KEY = "mlflow.sharedViewState.", "scores_"
# Settings and other metrics that the list shows beside the scores, and the columns' pixels.
_SETTINGS = ("model.stacks", "model.modules", "optim.learning_rate")
_SPEED = "samples_per_s"
_NAME_PX, _DATASET_PX, _SCORE_PX, _OTHER_PX = 240, 160, 100, 130
_SECTION = "scores"


def keep_view(run: Run, scores: Sequence[str], time_ms: int) -> None:
    """Give the experiment of a run the view of `scores`, metrics with the primary one first.

    A view that it has already stays as it is. Raises AwayError or RefusedError.
    """
    tag = _TAG + _KEY + scores[0]
    with mlflow_client(run.uri) as client:
        if tag not in client.get_experiment(run.experiment_id).tags:
            value = json.dumps(view(scores, time_ms), separators=(",", ":"))
            client.set_experiment_tag(run.experiment_id, tag, value)


def view_of(run: Run) -> str:
    """Return the key of the newest view of a run's experiment; empty without any.

    Raises AwayError or RefusedError.
    """
    with mlflow_client(run.uri) as client:
        tags = client.get_experiment(run.experiment_id).tags
    kept = [tag for tag in tags if tag.startswith(_TAG + _KEY)]
    # MLflow states no order of tags.
    return max(kept, key=lambda tag: _made(tags[tag])).removeprefix(_TAG) if kept else ""


def _made(value: str) -> float:
    """Return when a view was made, in ms since 1970; 0 if a user's change left no time."""
    try:
        return number_of(parse_json(value, "view")["createdAt"], "createdAt")
    except (ValueError, TypeError, KeyError):
        return 0.0


def view(scores: Sequence[str], time_ms: int) -> dict[str, Any]:
    """Return a view as MLflow keeps it, made at a time in ms since 1970."""
    times = {"createdAt": time_ms, "updatedAt": time_ms}
    return {"name": f"Scores: {scores[0]}", **times, "state": json.dumps(_state(scores))}


def _state(scores: Sequence[str]) -> dict[str, Any]:
    """Return the state of the page: order of the runs, columns and charts."""
    score_columns = [_column("metrics", name) for name in scores]
    columns = [
        *score_columns,
        *(_column("params", key) for key in _SETTINGS),
        _column("metrics", _SPEED),
    ]
    place, source = _column("attributes", "Dataset"), _column("attributes", "Source")
    widths = dict.fromkeys(columns, _OTHER_PX) | dict.fromkeys(score_columns, _SCORE_PX)
    return {
        "orderByKey": score_columns[0],
        "orderByAsc": False,
        "selectedColumns": [*columns, place, source],
        "columnOrder": [
            *(_column("attributes", "Run Name"), "runDateAndNestInfo"),
            *(*columns, "duration", place, source),
        ],
        "columnWidths": widths | {_column("attributes", "Run Name"): _NAME_PX, place: _DATASET_PX},
        "compareRunSections": [_section()],
        "compareRunCharts": list(_charts(scores[0])),
        # Otherwise sections are in alphabetical order.
        "isAccordionReordered": True,
    }


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _section() -> Mapping[str, Any]:
    shown = {"uuid": _SECTION, "name": "Scores", "display": True}
    return shown | {"isReordered": True, "deleted": False, "isGenerated": False}


def _charts(score: str) -> list[dict[str, Any]]:
    axes = {
        "xaxis": {"key": _SETTINGS[0], "type": "PARAM"},
        "yaxis": {"key": score, "type": "METRIC"},
    }
    return [
        _card("SCATTER", runsCountToCompare=100, **axes),
        *map(_curve, (score, "val_loss")),
        _card("IMAGE", imageKeys=[OVERLAYS], step=1, showRunParams=False),
    ]


def _curve(metric: str) -> dict[str, Any]:
    # Otherwise MLflow smooths it, so that it ends below the score.
    smoothing = {"lineSmoothness": 0, "useGlobalLineSmoothing": True}
    return _card("LINE", metricKey=metric, selectedMetricKeys=[metric], **smoothing)


def _card(kind: str, **more: Any) -> dict[str, Any]:
    """Return a chart of the interface with the fields that all kinds have."""
    name = "_".join([kind.lower(), *more.get("selectedMetricKeys", [])])
    card = {"uuid": name, "type": kind, "metricSectionId": _SECTION, "runsCountToCompare": 10}
    return card | {"deleted": False, "isGenerated": False} | more
