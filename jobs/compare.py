"""Compare runs on the same validation people: `python -m jobs.compare --help`."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jobs.options import OutFile, Storage, TrackingUri, write_json
from pipeline.io.console import say, say_text
from pipeline.io.location import is_store
from pipeline.io.text import csv_cell, one_line
from pipeline.pose.joint_set import OKS
from pipeline.settings.cli import clear_errors, parse

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.evaluation.comparison import Comparison
    from pipeline.evaluation.metrics import Scores

# Head of a column of differences.
_MORE = "vs first"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare runs with the first: settings, accuracy of each joint, and significance."""

    runs: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN ...")]]
    """Two runs or more, each a checkpoint's folder; a run's folder or name, for its best
    checkpoint; models:/NAME@ALIAS or models:/NAME/VERSION; or with --tracking.uri the name or id
    of an MLflow run."""
    unit: Literal["image", "video"] = "image"
    """People drawn together for the intervals: those of an image, or of a video, whose frames are
    named alike but for the number at the end."""
    storage: Storage = ""
    uri: TrackingUri = ""
    json: OutFile = None
    """File for settings, scores and differences."""
    csv: OutFile = None
    """File for the table."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        compare_runs(arguments)


def compare_runs(arguments: Arguments) -> "Comparison":
    """Find the runs, compare them, print, and write the files. Raises ValueError."""
    if len(set(arguments.runs)) < max(2, len(arguments.runs)):
        raise ValueError(f"RUN must name two different runs or more, got {list(arguments.runs)}")
    from pipeline.evaluation.comparison import compare
    from pipeline.tracking.links import comparison_page, how_to_open, recorded_runs, shown_folder
    from pipeline.tracking.lookup import compared_run

    words = arguments.runs
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = [_find(run, arguments, Path(folder)) for run in words]
        runs = [compared_run(*each) for each in zip(_labels(words), checkpoints, strict=True)]
        places = [checkpoint.parent for checkpoint in checkpoints]
        recorded = recorded_runs(places)
        is_here = not any(place.is_relative_to(folder) for place in places)
    compared = compare(runs, arguments.unit)
    found = table(compared)
    say_text(f"{settings_text(compared)}\n\n{table_text(found)}\n")
    for sentence in sentences(compared):
        say(sentence)
    if len(set(recorded)) == len(runs) and len({run.uri for run in recorded}) == 1:
        uri, names = recorded[0].uri, list(map(shown_folder, places))
        if not is_here or any(map(is_store, (*words, arguments.storage))):
            names = [*(run.run_id for run in recorded), "--tracking.uri", uri]
        opening = how_to_open(uri, comparison_page(recorded), names)
        say("to compare them in MLflow:")
        say(f"  {opening}")
    write_json(arguments.json, content(compared, words))
    if arguments.csv is not None:
        found.rename(columns=csv_cell).map(csv_cell).to_csv(arguments.csv, index_label="metric")
        say(f"written: {arguments.csv}")
    return compared


def _find(run: str, arguments: Arguments, into: Path) -> Path:
    from pipeline.tracking.lookup import COMPARED, find_checkpoint

    storage, uri = arguments.storage, arguments.uri
    return find_checkpoint(run, storage, uri, into, argument="RUN", files=COMPARED)


def _labels(runs: Sequence[str]) -> list[str]:
    """Return short names of runs: as much of the ends of their folders as tells them apart."""
    # A checkpoint's name alone would say little.
    parts = [
        [run] if run.startswith("models:") else re.split("/(?!epoch_)", run.rstrip("/"))
        for run in runs
    ]
    for count in range(1, max(map(len, parts))):
        labels = ["/".join(part[-count:]) for part in parts]
        if len(set(labels)) == len(runs):
            return labels
    return list(runs)


def settings_text(compared: "Comparison") -> str:
    """Format the settings that differ, one a line, with the values of each run."""
    lines = [
        one_line(f"  {key}: {' | '.join(str(value) for value in values)}")
        for key, values in compared.settings.items()
    ]
    return "\n".join(["settings that differ:", *lines]) if lines else "settings: all the same"


def table(compared: "Comparison") -> "pd.DataFrame":
    """Return a row for each percentage, a column for each run, and its gain over the first."""
    import pandas as pd

    rows = list(map(_percentages, compared.scores))
    columns = {compared.runs[0].name: rows[0]}
    for one, row in zip(compared.runs[1:], rows[1:], strict=True):
        columns[one.name] = row
        columns[f"{one.name} {_MORE}"] = {
            name: row[name] - rows[0][name] for name in row if name in rows[0]
        }
    return pd.DataFrame(columns)


def _percentages(scores: "Scores") -> dict[str, float]:
    """Return a run's column by the name of the row, the primary metric first."""
    measure = scores.measure
    precision = {OKS.headline: scores.precision.ap} if scores.precision else {}
    pooled = {measure.title_at(t): value for t, value in scores.pooled.items()}
    pooled |= {measure.area_title: scores.auc} | scores.joints[measure.thresholds[0]]
    return pooled | precision if measure.is_of_joints else precision | pooled


def table_text(found: "pd.DataFrame") -> str:
    """Format with two decimals, signed differences, and - where nothing was annotated."""
    shown, heads = found.astype(object), [str(column) for column in found]
    for head in heads:
        form = "{:+.2f}" if head.endswith(_MORE) else "{:.2f}"
        shown[head] = ["-" if isnan(value) else form.format(value) for value in found[head]]
    shown.columns = [_MORE if head.endswith(_MORE) else head for head in heads]
    return shown.to_string(col_space=[len(head) + 2 for head in shown.columns])


def sentences(compared: "Comparison") -> list[str]:
    """Describe the checkpoints, and whether each difference is resolved."""
    from pipeline.evaluation.comparison import FEW, videos_in

    first, *others = compared.runs
    lines = [f"{one.name}: epoch {one.epoch}, {len(one.results):,} people" for one in compared.runs]
    for other, differences, by_oks in zip(
        others, compared.differences, compared.precision_differences, strict=True
    ):
        people, both = differences[0].people, (len(first.results), len(other.results))
        if people < max(both):
            lines.append(
                f"note: {first.name} and {other.name} share {people:,} of {both[0]:,} and "
                f"{both[1]:,} people; the intervals are of these alone"
            )
        found = [d.sentence(other.name, first.name, compared.measure.title) for d in differences]
        precise = [by_oks.sentence(other.name, first.name, OKS.headline)] if by_oks else []
        lines += found + precise if compared.measure.is_of_joints else precise + found
        if 1 < differences[0].clusters < FEW:
            lines.append(
                f"note: {differences[0].drawn} are few: the interval holds the true difference in "
                "somewhat less than 95% of cases"
            )
        videos = videos_in(other.results.keys) if differences[0].unit == "image" else 0
        if videos:
            lines.append(
                f"note: the images are named like frames of {videos:,} videos; if they are, "
                "--unit video gives the interval"
            )
    return lines


def content(compared: "Comparison", runs: Sequence[str]) -> dict[str, Any]:
    """Return the comparison of `runs`, as they were given, as plain data."""
    from pipeline.evaluation.comparison import PERCENT, RESAMPLES

    differences = ((), *compared.differences)
    by_oks = (None, *compared.precision_differences)
    return {
        "measure": compared.measure.key,
        "settings": compared.settings,
        "interval_percent": PERCENT,
        "resamples": RESAMPLES,
        "runs": [
            {
                "run": run,
                "epoch": one.epoch,
                "people": len(one.results),
                "scores": scores.as_dict(),
                "differences": [asdict(d) | {"is_resolved": d.is_resolved} for d in more],
                "oks": precision.as_dict() if precision else {},
                "oks_difference": asdict(gain) | {"is_resolved": gain.is_resolved} if gain else {},
            }
            for run, one, scores, more, precision, gain in zip(
                runs,
                compared.runs,
                compared.scores,
                differences,
                compared.precisions,
                by_oks,
                strict=True,
            )
        ],
    }


if __name__ == "__main__":
    main()
