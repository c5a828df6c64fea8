"""The report of a sweep on disk: table, figures, and one HTML file of both that works offline."""

import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.io.atomic import atomic_write
from pipeline.io.console import amount, duration
from pipeline.io.page import html_page, picture_source
from pipeline.io.redaction import redacted
from pipeline.io.text import csv_cell
from tune.outcome import SweepOutcome, TrialOutcome
from tune.report.command import best_command
from tune.report.figures import Picture, pictures
from tune.report.leaderboard import best, leaderboard, ranked, summary, varied_keys
from tune.report.table import columns_of
from tune.report.values import clipped, distinct, is_number, last_line, number, shown

# Nearly twice the usual density, for sharp figures on high-density screens.
_DOTS_PER_INCH = 144
_VALUE_LETTERS = 300
_REASON_LETTERS, _NO_REASON = 300, "no reason is known"
_MOST_VALUES = 12
# Browsers scroll through this much text without trouble; trials.csv has all of it.
_ERROR_LETTERS = 20_000


_TEMPLATE = Path(__file__).parent / "page.html.j2"
_SCRIPT = (_TEMPLATE.parent / "page.js").read_text()


def write_report(outcome: SweepOutcome, folder: Path) -> list[Path]:
    """Write trials.csv, figures/*.png and report.html to `folder`; return their paths in order.

    Each file replaces that of an earlier report atomically. Raises OSError if the disk is full.
    """
    shown_pictures = pictures(outcome)
    images = {picture.name: _png(picture) for picture in shown_pictures}
    files = {"trials.csv": leaderboard(outcome).map(csv_cell).to_csv(index=False).encode()}
    files |= {f"figures/{name}": content for name, content in images.items()}
    files["report.html"] = report_page(outcome, shown_pictures, images).encode()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic_write(folder / name) as aside:
            aside.write_bytes(content)
    return [folder / name for name in files]


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()


def report_page(
    outcome: SweepOutcome, pictures: Sequence[Picture], images: Mapping[str, bytes]
) -> str:
    """Return the page; `images` holds the pictures' PNG files by name."""
    command = best_command(outcome) or ""
    return html_page(
        _TEMPLATE,
        _SCRIPT,
        outcome=outcome,
        summary=summary(outcome),
        swept={key: _values(outcome, key) for key in varied_keys(outcome)},
        shared=shlex.join(outcome.command),
        trials=ranked(outcome),
        best=best(outcome),
        command=command,
        has_secrets=redacted(command) != command,
        columns=columns_of(outcome),
        pictures=pictures,
        images={name: picture_source(image) for name, image in images.items()},
        number=number,
        reason=lambda trial: clipped(last_line(trial.error), _REASON_LETTERS) or _NO_REASON,
        facts=_facts,
        end_of=_end_of,
    )


def _values(outcome: SweepOutcome, key: str) -> str:
    values = distinct(
        outcome.axes.get(key, ()) or [trial.point.get(key) for trial in outcome.trials]
    )
    are_numbers = all(map(is_number, values))
    if are_numbers:
        values.sort()
    if are_numbers and len(values) > _MOST_VALUES:
        return f"{len(values)} values from {shown(values[0])} to {shown(values[-1])}"
    some = ", ".join(clipped(shown(value), _VALUE_LETTERS) for value in values[:_MOST_VALUES])
    return f"{some} and {more} more" if (more := len(values) - _MOST_VALUES) > 0 else some


def _facts(trial: TrialOutcome) -> dict[str, str]:
    facts = {key: shown(value) for key, value in trial.point.items()}
    facts |= {
        "best epoch": str(trial.best_epoch or ""),
        "training samples seen": f"{trial.samples:,}",
        "wall time": duration(trial.seconds) if is_number(trial.seconds) else "",
        "training samples/s": amount(trial.samples_per_s, 1),
        "parameters": f"{trial.parameters:,}",
        "GMAC of one image, forward": amount(trial.macs / 1e9, 3),
        "best checkpoint": trial.checkpoint_place,
        **({"cut from": trial.cut_from} if trial.cut_from else {}),
    }
    return {name: value or "not known" for name, value in facts.items()}


def _end_of(error: str) -> str:
    """Return an error, or the end of a long one: a traceback says most there."""
    more = len(error) - _ERROR_LETTERS
    end = error[-_ERROR_LETTERS:]
    return f"({more:,} letters before this are in trials.csv)\n{end}" if more > 0 else end
