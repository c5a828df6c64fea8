"""A sweep's report as one HTML file that needs nothing but itself, from disk or anywhere."""

import base64
import shlex
from collections.abc import Iterator, Mapping, Sequence

from pipeline.io.redaction import redacted
from tune.outcome import SweepOutcome, TrialOutcome
from tune.report.assets import POLICY, SCRIPT, STYLE
from tune.report.columns import TRIAL, Column, columns_of
from tune.report.command import best_command
from tune.report.details import all_trials, failed_trials
from tune.report.figures import Picture
from tune.report.leaderboard import best, ranked, summary, varied_keys
from tune.report.values import as_html, clipped, distinct, is_number, shown

_VALUE_LETTERS = 300
_MOST_VALUES = 12
# Longer cells are cut to the width of so many letters until a pointer is over them.
_CELL_LETTERS = 24
# Figures have so many pixels of the page an inch; the broad ones scroll on a phone.
_CSS_PIXELS, _BROAD_INCHES = 90, 7
_CONTENTS = "".join(
    f'<a href="#{name.lower().split()[0]}">{name}</a> '
    for name in ("Swept", "Best settings", "Leaderboard", "Figures", "Failed trials", "Trials")
)


def report_page(
    outcome: SweepOutcome, pictures: Sequence[Picture], drawn: Mapping[str, bytes]
) -> str:
    """The page; `drawn` holds the pictures' PNG files by name. Every text from outside is escaped, secrets in URIs are hidden."""
    title = as_html(f"Sweep {outcome.name}")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1><p>{as_html(summary(outcome))}</p>",
        f"<nav>{_CONTENTS}</nav>",
        *_swept(outcome),
        *_best(outcome),
        *_leaderboard(outcome),
        *_figures(pictures, drawn),
        *failed_trials(outcome),
        *all_trials(outcome),
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _swept(outcome: SweepOutcome) -> Iterator[str]:
    yield '<h2 id="swept">What was swept</h2>'
    yield f"<p>{as_html(outcome.how)}</p>" if outcome.how else ""
    yield f"<p>Trials are ranked by the best {as_html(outcome.headline)} that they reached.</p><dl>"
    for key in varied_keys(outcome):
        yield f"<dt>{as_html(key)}</dt><dd>{as_html(_values(outcome, key))}</dd>"
    yield "</dl>"
    shared = shlex.join(outcome.command)
    yield f"<p>All trials share:</p><pre>{as_html(shared)}</pre>" if shared else ""


def _values(outcome: SweepOutcome, key: str) -> str:
    values = distinct(
        outcome.axes.get(key, ()) or [trial.point.get(key) for trial in outcome.trials]
    )
    if all(map(is_number, values)):
        values.sort()
    if len(values) <= _MOST_VALUES:
        return ", ".join(clipped(shown(value), _VALUE_LETTERS) for value in values)
    if all(map(is_number, values)):
        return f"{len(values)} values from {shown(values[0])} to {shown(values[-1])}"
    some = ", ".join(clipped(shown(value), _VALUE_LETTERS) for value in values[:_MOST_VALUES])
    return f"{some} and {len(values) - _MOST_VALUES} more"


def _best(outcome: SweepOutcome) -> Iterator[str]:
    yield '<h2 id="best">Best settings</h2>'
    trial, command = best(outcome), best_command(outcome)
    if trial is None or command is None:
        yield "<p>No trial that did not fail has a score yet, so there are none.</p>"
        return
    yield (
        f"<p><b>{as_html(trial.name)}</b> reached {as_html(outcome.headline)} "
        f"<b>{trial.score:.2f} %</b> at epoch {trial.best_epoch}{_ended(trial)}. "
        "To train with its settings:</p>"
    )
    yield f'<pre id="command">{as_html(command)}</pre>'
    yield '<button class="copy" type="button" data-of="command" hidden>Copy</button>'
    if redacted(command) != command:
        yield '<p class="quiet">Secrets stand as *** and are to be filled in.</p>'
    if trial.checkpoint is not None:
        yield f"<p>Its best checkpoint: <code>{as_html(str(trial.checkpoint))}</code></p>"


def _ended(trial: TrialOutcome) -> str:
    samples = f"{trial.samples:,} training samples"
    return f"; it is {trial.status}, at {samples}" if trial.status != "finished" else ""


def _leaderboard(outcome: SweepOutcome) -> Iterator[str]:
    yield '<h2 id="leaderboard">Leaderboard</h2>'
    if not outcome.trials:
        yield "<p>There are no trials.</p>"
        return
    columns, first = columns_of(outcome), best(outcome)
    heads = "".join(f"<th{_class(column)}>{as_html(column.title)}</th>" for column in columns)
    yield '<div class="wide"><table class="sortable">'
    yield f"<thead><tr>{heads}</tr></thead><tbody>"
    for row, trial in enumerate(ranked(outcome)):
        cells = "".join(_cell(column, row) for column in columns)
        yield f"<tr{_mark(trial is first, 'best')}>{cells}</tr>"
    yield "</tbody></table></div>"
    yield (
        '<p class="quiet">A trial that finished had all its epochs; one that was stopped had fewer, '
        "by the scheduler or the budget; one that failed did so again when it was tried again; "
        "one that is unfinished had not ended when the sweep did. Equal scores share a rank; "
        "failed trials have none. Time is wall time over all starts of a trial, samples/s the "
        "median over its epochs.</p>"
    )


def _class(column: Column) -> str:
    return _mark(column.is_text, "text")


def _mark(applies: bool, name: str) -> str:
    return f' class="{name}"' if applies else ""


def _cell(column: Column, row: int) -> str:
    value, text = column.values[row], as_html(column.cells[row])
    known = "" if value is None else as_html(str(value))
    if column.title == TRIAL:
        text = f'<a href="#trial-{row}">{text}</a>'
    elif column.cells[row] == "failed":
        text = f'<span class="failed">{text}</span>'
    is_long = len(column.cells[row]) > _CELL_LETTERS
    kinds = " ".join(name for name, on in (("text", column.is_text), ("long", is_long)) if on)
    return f'<td{_mark(bool(kinds), kinds)} data-value="{known}">{text}</td>'


def _figures(pictures: Sequence[Picture], drawn: Mapping[str, bytes]) -> Iterator[str]:
    yield '<h2 id="figures">Figures</h2>'
    if not pictures:
        yield "<p>No trial has been evaluated, so there is nothing to draw.</p>"
    for picture in pictures:
        data = base64.b64encode(drawn[picture.name]).decode()
        yield f"<h3>{as_html(picture.title)}</h3><p>{as_html(picture.sentence)}</p>"
        inches = picture.figure.get_figwidth()
        yield (
            f"<figure><img{_mark(inches > _BROAD_INCHES, 'broad')} "
            f'width="{inches * _CSS_PIXELS:.0f}" alt="{as_html(picture.title)}" '
            f'src="data:image/png;base64,{data}"></figure>'
        )
