"""Compare two sweeps: `python -m tune.compare --help`."""

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.io.console import aligned, say_text
from pipeline.io.inside import read_whole
from pipeline.io.installation import command
from pipeline.io.parsing import parse_json, table_of, text_of
from pipeline.io.text import briefly
from pipeline.run.layout import SWEEP_NAME
from pipeline.settings import Settings
from pipeline.settings.cli import clear_errors, parse

_TABLE = "trials.csv"
_DATA = "data.val.checksum"
# Settings that follow from others, or name places.
_PLACES = ("data.train", "data.val", "data.train.checksum", _DATA)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare two sweeps: their best trials, settings that differ, and trials of equal settings."""

    sweeps: tyro.conf.Positional[Annotated[tuple[str, str], tyro.conf.arg(metavar="FIRST SECOND")]]
    """The sweeps' folders, also in a bucket (s3://, gs://, az://), or their names in
    --ray.storage."""
    storage: Annotated[str, tyro.conf.arg(name="ray.storage", metavar="DIR")] = ""
    """Folder of sweeps given by name, or one in a bucket; empty: ./runs."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A row of a sweep's table: its settings by dotted key, and its score if it competes."""

    name: str
    status: str
    point: Mapping[str, str]
    score: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A sweep as it is compared: what its trials share, and its trials, best first."""

    folder: str
    headline: str
    facts: Mapping[str, str]
    trials: Sequence[Trial]

    def value(self, trial: Trial, key: str) -> str:
        """Return a trial's setting, which may be one that all trials share."""
        return _plain(trial.point.get(key, self.facts.get(key, "")))


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        for line in compare_sweeps(arguments.sweeps, arguments.storage):
            say_text(line)


def compare_sweeps(sweeps: tuple[str, str], storage: str) -> list[str]:
    """Return the lines of the comparison. Raises ValueError if a sweep has no report."""
    from pipeline.run.plan import resolved_storage

    first, second = (read_sweep(name, resolved_storage(storage)) for name in sweeps)
    if first.headline != second.headline:
        raise ValueError(
            f"the sweeps must have one primary metric, got {first.headline} in {first.folder} and "
            f"{second.headline} in {second.folder}"
        )
    lines = [aligned(_summary(first, second)), ""]
    lines += _settings(first, second)
    lines += ["", *_equal_trials(first, second), ""]
    return [
        *lines,
        "whether the best trials differ by more than chance:",
        f"  {shlex.join([*command('jobs.compare'), first.folder, second.folder])}",
    ]


def read_sweep(name: str, storage: str) -> Compared:
    """Read a sweep's identity and table. Raises ValueError if it has none, or they are damaged."""
    from pipeline.run.metadata import read_metadata
    from pipeline.run.start import find_local
    from pipeline.run.storage import folders_here, shown

    folder = next((f for f in folders_here(name, storage) if (f / SWEEP_NAME).exists()), None)
    if folder is None:
        raise ValueError(f"{name!r}: no folder of a sweep, and none of this name in {storage}")
    table = folder / _TABLE
    if not table.exists():
        raise ValueError(
            f"{shown(folder)}: no {_TABLE}, which a sweep writes at its end; the command that "
            "started the sweep finishes it"
        )
    checkpoint = find_local(str(folder), needs_weights=False)
    assert checkpoint is not None, "it is a sweep"
    best = read_metadata(checkpoint)
    identity = folder / SWEEP_NAME
    found = table_of(parse_json(read_whole(identity), str(identity)), str(identity), lambda v, _: v)
    facts = table_of(found.get("facts", {}), f"{identity}: facts", text_of)
    return Compared(
        folder=shown(folder),
        headline=best.joint_set.measure(best.settings.evaluation.measure).headline,
        facts=facts,
        trials=_trials(table),
    )


def _trials(table: Path) -> list[Trial]:
    known = Settings().flat()
    try:
        lines = io.StringIO(read_whole(table).decode(), newline="")
        rows = csv.DictReader(lines, restval="")
        if absent := {"rank", "trial", "status", "score"} - set(rows.fieldnames or ()):
            raise ValueError(f"it has no column {min(absent)}")
        return [
            Trial(
                name=row["trial"],
                status=row["status"],
                point={key: value for key, value in row.items() if key in known},
                score=float(row["score"]) if row["rank"] and row["score"] else math.nan,
            )
            for row in rows
        ]
    except (ValueError, csv.Error) as error:
        why = briefly(error)
        raise ValueError(f"{table}: not a table of a sweep's trials: {why}") from None


def _summary(first: Compared, second: Compared) -> list[list[str]]:
    bests = [one.trials[0] if one.trials else None for one in (first, second)]
    rows = [["", first.folder, second.folder, "difference"]]
    rows.append(["trials", *(str(len(one.trials)) for one in (first, second))])
    rows.append(["failed", *(str(_failures(one)) for one in (first, second))])
    scores = [math.nan if best is None else best.score for best in bests]
    rows.append([f"best {first.headline}", *map(_shown, scores), _difference(*scores)])
    rows.append(["best trial", *("" if best is None else best.name for best in bests)])
    return rows


def _failures(sweep: Compared) -> int:
    return sum(trial.status == "failed" for trial in sweep.trials)


def _settings(first: Compared, second: Compared) -> list[str]:
    """List the shared settings that differ, and whether the data do."""
    keys = [key for key in first.facts if key in second.facts and key not in _PLACES]
    lines = [
        f"  {key}: {first.facts[key]} | {second.facts[key]}"
        for key in keys
        if first.facts[key] != second.facts[key] and key not in _varied(first, second)
    ]
    lines = ["settings that differ:", *lines] if lines else ["settings: all the same"]
    if first.facts.get(_DATA) != second.facts.get(_DATA):
        lines.append("note: the validation data differ, so the scores are of other people")
    return lines


def _varied(*sweeps: Compared) -> list[str]:
    """Return the settings that vary in any of the sweeps."""
    return list(dict.fromkeys(key for one in sweeps for t in one.trials for key in t.point))


def _equal_trials(first: Compared, second: Compared) -> list[str]:
    """Return a table of the trials that both sweeps have, and what only one has."""
    keys = _varied(first, second)
    # Of trials with equal settings the best comes first.
    points = [
        {point: trial for trial in reversed(one.trials) for point in [_point(one, trial, keys)]}
        for one in (first, second)
    ]
    ours, theirs = points
    rows = [
        [" ".join(point), _shown(ours[point].score), _shown(theirs[point].score)]
        + [_difference(ours[point].score, theirs[point].score)]
        for point in sorted(ours, key=lambda point: -_rank(ours[point]))
        if point in theirs
    ]
    head = [" ".join(keys), "first", "second", "difference"]
    lines = [aligned([head, *rows])] if rows else ["no trial of one has the settings of another"]
    for word, mine, other in (("first", ours, theirs), ("second", theirs, ours)):
        alone = [trial.name for point, trial in mine.items() if point not in other]
        if alone and rows:
            lines.append(f"only in the {word}: {', '.join(sorted(alone))}")
    return lines


def _point(sweep: Compared, trial: Trial, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(sweep.value(trial, key) for key in keys)


def _rank(trial: Trial) -> float:
    return trial.score if math.isfinite(trial.score) else -math.inf


def _plain(value: str) -> str:
    """Return a value as both the table and the record write it: `0.001` for `1e-3`."""
    try:
        return f"{float(value):.12g}"
    except ValueError:
        return value.lower() if value.lower() in ("true", "false") else value


def _shown(score: float) -> str:
    return f"{score:.2f}" if math.isfinite(score) else "-"


def _difference(first: float, second: float) -> str:
    return f"{second - first:+.2f}" if math.isfinite(second - first) else "-"


if __name__ == "__main__":
    main()
