"""A dataset's card for people to read: as text, and as one HTML file that works offline."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.data.inspection.card import PERCENTILES, Card
from pipeline.data.inspection.sheets import Sheet
from pipeline.io.console import aligned
from pipeline.io.page import html_page, picture_source
from pipeline.io.text import one_line

# Findings of one kind that the text and the page list.
_PRINTED = 10
_ON_PAGE = 50
_TEMPLATE = Path(__file__).parent / "page.html.j2"

# Head and rows.
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def card_text(card: Card) -> str:
    """Format the card as text, with the first ten entries of long lists."""
    lines = [one_line(_counts(card))]
    for head, rows in _tables(card):
        lines += ["", aligned([head, *rows])]
    lines.append("")
    for title, entries in _findings(card).items():
        lines.append(f"{title}: {len(entries):,}")
        lines += [one_line(f"  {name}  {reason}".rstrip()) for name, reason in entries[:_PRINTED]]
        if len(entries) > _PRINTED:
            lines.append(f"  and {len(entries) - _PRINTED:,} more")
    return "\n".join(lines)


def card_page(card: Card, sheets: Sequence[Sheet]) -> str:
    """Return the card and its sheets as one HTML file. Every name from the data is escaped."""
    findings = _findings(card)
    return html_page(
        _TEMPLATE,
        card=card,
        counts=_counts(card),
        tables=_tables(card),
        findings=findings,
        not_found=[title for title, entries in findings.items() if not entries],
        most=_ON_PAGE,
        sheets=sheets,
        source=picture_source,
    )


def _counts(card: Card) -> str:
    damaged = len(card.damaged_samples)
    left_out = f"; damaged samples, left out of these counts: {damaged:,}" if damaged else ""
    return (
        f"{card.source}, joint set {card.joint_set}: {card.people:,} people in {card.images:,} "
        f"images, {card.shards:,} shards, {card.head_sizes:,} people with a head size{left_out}"
    )


def _tables(card: Card) -> list[Table]:
    def counted(counts: Mapping[str, Mapping[str, int]]) -> Iterator[list[str]]:
        for name, row in counts.items():
            yield [name, *(f"{count:,}" for count in row.values())]

    spreads = [
        [name, *(f"{value:.4g}" for value in values.values())]
        for name, values in card.spreads.items()
        if values
    ]
    return [
        (("split", "people", "images"), list(counted(card.splits))),
        (
            ("joint", "missing", "occluded", "visible", "outside the image"),
            list(counted(card.joints)),
        ),
        (("percentile", *(f"{share}%" for share in PERCENTILES)), spreads),
    ]


def _findings(card: Card) -> dict[str, list[tuple[str, str]]]:
    """Return the findings by title, each as a name and a reason."""
    found = {
        "damaged samples": [(sample, "") for sample in card.damaged_samples],
        "images in both splits": [(image, "") for image in card.leaks],
        "crops identical to the byte": [(" = ".join(names), "") for names in card.identical_crops],
        "people of one image whose joints coincide": [
            (f"{pair.first} ~ {pair.second}", f"{100 * pair.distance_share:.1f}% of the frame")
            for pair in card.coinciding_people
        ],
    }
    for kind, entries in card.anomalies.items():
        found[kind] = [(f"{entry.split}/{entry.key}", entry.reason) for entry in entries]
    return found
