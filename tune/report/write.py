"""The report of a sweep on disk: table, figures, and a page that shows both."""

import io
from pathlib import Path

from pipeline.io.atomic import atomic_write
from tune.outcome import SweepOutcome
from tune.report.figures import Picture, pictures
from tune.report.leaderboard import leaderboard
from tune.report.page import report_page

# Sharp on screens of twice the usual density, or nearly so.
_DOTS_PER_INCH = 144


def write_report(outcome: SweepOutcome, folder: Path) -> list[Path]:
    """Write trials.csv, figures/*.png and report.html to `folder`; return their paths in this order.

    What an earlier report left there is replaced, file by file. Raises OSError
    if the disk is full.
    """
    shown = pictures(outcome)
    drawn = {picture.name: _png(picture) for picture in shown}
    files = {"trials.csv": leaderboard(outcome).to_csv(index=False).encode()}
    files |= {f"figures/{name}": content for name, content in drawn.items()}
    files["report.html"] = report_page(outcome, shown, drawn).encode()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic_write(folder / name) as aside:
            aside.write_bytes(content)
    return [folder / name for name in files]


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()
