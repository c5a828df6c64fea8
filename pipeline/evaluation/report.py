"""The report of a run: one HTML file with its scores, its settings and its pictures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.evaluation.metrics import Scores
from pipeline.io.page import html_page, picture_source
from pipeline.settings import Settings
from pipeline.settings.presets import RECIPES, settings_of

_TEMPLATE = Path(__file__).parent / "report.html.j2"


@dataclass(frozen=True, kw_only=True)
class ReportPicture:
    """A PNG file with the name of its anchor, a title and a sentence that explains it."""

    name: str
    title: str
    sentence: str
    png: bytes
    is_broad: bool = True
    """Whether its text would be too small on a narrow screen."""
    is_photograph: bool = False
    """Whether it shows photographs rather than a chart."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """The content of a run's report, as plain data."""

    name: str
    result: str
    """The best score and its epoch, in words."""
    about: Sequence[str]
    """Paragraphs on network, data, recipe and workers."""
    command: str
    facts: Mapping[str, str]
    recipe: str
    settings: Sequence[tuple[str, str, str]]
    """Each setting that differs from the recipe, with the run's value and the recipe's."""
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]]
    """The head and the rows of each table of scores."""
    pictures: Sequence[ReportPicture]


def report_page(report: RunReport) -> str:
    """Return the report as one HTML file. Names are escaped, and it holds no secrets."""
    return html_page(_TEMPLATE, report=report, source=picture_source)


def against_recipe(settings: Settings) -> tuple[str, list[tuple[str, str, str]]]:
    """Compare settings with the recipe that they are nearest to, the first of equals.

    Returns its name, and each deciding setting that differs with both values; where the recipe has
    none, the default counts. The number of joints follows from the data.
    """
    ours = settings.decisive()

    def differing(recipe: str) -> list[tuple[str, str, str]]:
        theirs = Settings.from_flat(settings_of([recipe])).flat()
        return [
            (key, _text(value), _text(theirs[key]))
            for key, value in ours.items()
            if value != theirs[key] and key != "model.joints"
        ]

    found = {recipe: differing(recipe) for recipe in RECIPES}
    nearest = min(found, key=lambda recipe: len(found[recipe]))
    return nearest, found[nearest]


def score_table(result: Scores) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table: joints, groups and means by the measure's thresholds."""
    thresholds = result.measure.thresholds
    return ["", *map(result.measure.title_at, thresholds)], list(_rows(result))


def _rows(result: Scores) -> Iterator[list[str]]:
    thresholds = result.measure.thresholds
    for by_threshold in (result.joints, result.groups):
        for name in by_threshold[thresholds[0]]:
            yield [name, *(_percent(by_threshold[t][name]) for t in thresholds)]
    yield ["pooled mean", *(_percent(result.pooled[t]) for t in thresholds)]
    yield ["unweighted mean", *(_percent(result.unweighted[t]) for t in thresholds)]
    yield from ([name, _percent(value)] for name, value in result.closing)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
