"""What the report's page says of trials one by one: why they failed, and all that is known of each."""

from collections.abc import Iterator

from pipeline.io.console import duration
from tune.outcome import SweepOutcome, TrialOutcome
from tune.report.leaderboard import ranked
from tune.report.values import as_html, clipped, is_number, last_line, number, shown

# What a browser scrolls through without trouble; trials.csv has all of it.
_ERROR_LETTERS = 20_000
_REASON_LETTERS = 300


def failed_trials(outcome: SweepOutcome) -> Iterator[str]:
    """HTML: the trials that failed, each with the last line of its error."""
    yield '<h2 id="failed">Failed trials</h2>'
    failed = [(row, t) for row, t in enumerate(ranked(outcome)) if t.status == "failed"]
    if not failed:
        yield "<p>None.</p>"
        return
    yield "<ul>"
    for row, trial in failed:
        reason = clipped(last_line(trial.error), _REASON_LETTERS) or "no reason is known"
        yield f'<li><a href="#trial-{row}">{as_html(trial.name)}</a>: {as_html(reason)}</li>'
    yield "</ul>"


def all_trials(outcome: SweepOutcome) -> Iterator[str]:
    """HTML: a section a trial, in the leaderboard's order, which the page opens on demand."""
    yield '<h2 id="trials">Trials</h2>'
    for row, trial in enumerate(ranked(outcome)):
        score = number(trial.score, 2)
        reached = f", {outcome.headline} {score} %" if score else ""
        heading = f"{trial.name}: {trial.status}{reached}"
        yield f'<details id="trial-{row}"><summary>{as_html(heading)}</summary><dl>'
        for name, value in _facts(trial).items():
            yield f"<dt>{as_html(name)}</dt><dd>{as_html(value)}</dd>"
        yield "</dl>"
        if trial.error:
            yield f"<pre>{as_html(_cut(trial.error))}</pre>"
        yield "</details>"


def _facts(trial: TrialOutcome) -> dict[str, str]:
    facts = {key: shown(value) for key, value in trial.point.items()}
    facts |= {
        "best epoch": str(trial.best_epoch) if number(trial.score, 2) else "",
        "training samples seen": f"{trial.samples:,}",
        "wall time": duration(trial.seconds) if is_number(trial.seconds) else "",
        "training samples/s": number(trial.samples_per_s, 1),
        "parameters": f"{trial.parameters:,}",
        "GMAC of one image, forward": number(trial.macs / 1e9, 3),
        "best checkpoint": str(trial.checkpoint or ""),
    }
    return {name: value or "not known" for name, value in facts.items()}


def _cut(error: str) -> str:
    more = len(error) - _ERROR_LETTERS
    if more <= 0:
        return error
    # A traceback says most at its end.
    return f"({more:,} letters before this are in trials.csv)\n{error[-_ERROR_LETTERS:]}"
