"""A dataset's card for people to read: as text, and as a page that needs nothing but itself."""

import base64
from collections.abc import Iterator, Sequence
from html import escape

from pipeline.data.inspection.card import PERCENTILES, Card
from pipeline.data.inspection.sheets import Sheet

_PRINTED = 10
_ON_PAGE = 50

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 1060px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ccc; }
h3 { font-size: 1em; margin: 1.2em 0 .2em; }
table { border-collapse: collapse; margin: .8em 0; }
th, td { padding: .15em .9em .15em 0; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
td { font-variant-numeric: tabular-nums; }
img { max-width: 100%; height: auto; display: block; margin: .8em 0; border: 1px solid #ddd; }
ul, ol { padding-left: 1.6em; } li { overflow-wrap: anywhere; }
.warn { color: #a33; font-weight: 600; } .quiet { color: #666; }
"""

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def card_text(card: Card) -> str:
    """The card as text; of long lists the first ten."""
    lines = [_headline(card)]
    for table in _tables(card):
        lines += ["", *_columns(table)]
    lines.append("")
    for title, entries in _findings(card).items():
        lines.append(f"{title}: {len(entries):,}")
        lines += [f"  {name}  {reason}".rstrip() for name, reason in entries[:_PRINTED]]
        if len(entries) > _PRINTED:
            lines.append(f"  and {len(entries) - _PRINTED:,} more")
    return "\n".join(lines)


def card_page(card: Card, sheets: Sequence[Sheet]) -> str:
    """The card and its sheets as one HTML file. Every name from outside is escaped."""
    title = escape(f"Dataset card: {card.source}")
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1><p>{escape(_headline(card))}</p>",
        *map(_html_table, _tables(card)),
        "<h2>Findings</h2>",
        *_html_findings(card),
        "<h2>Contact sheets</h2>",
        "<p>Left limbs are orange, right blue; white rings mark occluded joints, missing "
        "joints are not drawn. Each sheet shows stored crops, then the same people as "
        "training sees them: rotated, scaled, mirrored and coloured at random.</p>",
        *(part for sheet in sheets for part in _html_sheet(sheet)),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _headline(card: Card) -> str:
    damaged = len(card.damaged_samples)
    left_out = f"; damaged samples, left out of these counts: {damaged:,}" if damaged else ""
    return (
        f"{card.source}, joint set {card.joint_set}: {card.people:,} people in {card.images:,} "
        f"images, {card.shards:,} shards, {card.head_sizes:,} people with a head size{left_out}"
    )


def _tables(card: Card) -> list[Table]:
    splits = [(name, f"{of.people:,}", f"{of.images:,}") for name, of in card.splits.items()]
    states = ("missing", "occluded", "visible", "outside")
    joints = [
        (name, *(f"{getattr(counts, state):,}" for state in states))
        for name, counts in card.joints.items()
    ]
    spreads = [
        (name, *(f"{value:.4g}" for value in values.values()))
        for name, values in card.spreads.items()
        if values
    ]
    return [
        (("split", "people", "images"), splits),
        (("joint", "missing", "occluded", "visible", "outside the image"), joints),
        (("percentile", *(f"{share} %" for share in PERCENTILES)), spreads),
    ]


def _findings(card: Card) -> dict[str, list[tuple[str, str]]]:
    """Each list of findings by its title: names, and what is said of them."""
    found = {
        "damaged samples": [(sample, "") for sample in card.damaged_samples],
        "images in both splits": [(image, "") for image in card.leaks],
        "crops identical to the byte": [(" = ".join(names), "") for names in card.identical_crops],
        "people of one image whose joints coincide": [
            (f"{pair.first} ~ {pair.second}", f"{100 * pair.distance_share:.1f} % of the frame")
            for pair in card.coinciding_people
        ],
    }
    for kind, entries in card.anomalies.items():
        found[kind] = [(f"{entry.split}/{entry.key}", entry.reason) for entry in entries]
    return found


def _columns(table: Table) -> Iterator[str]:
    head, rows = table
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        first, *rest = (
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *rest])


def _html_table(table: Table) -> str:
    head, rows = table
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += [
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    ]
    return "<table>" + "\n".join(lines) + "</table>"


def _html_findings(card: Card) -> Iterator[str]:
    found = _findings(card)
    for title, entries in found.items():
        if entries:
            yield f'<h3>{escape(title)}: <span class="warn">{len(entries):,}</span></h3>'
            yield _html_list("ul", entries[:_ON_PAGE])
        if len(entries) > _ON_PAGE:
            yield f'<p class="quiet">and {len(entries) - _ON_PAGE:,} more in card.json</p>'
    nobody = [title for title, entries in found.items() if not entries]
    if nobody:
        yield f'<h3>Looked for and not found</h3><p class="quiet">{escape("; ".join(nobody))}</p>'


def _html_sheet(sheet: Sheet) -> Iterator[str]:
    yield f'<h3 id="{escape(sheet.name)}">{escape(sheet.title)}</h3>'
    for name, picture in sheet.files.items():
        data = base64.b64encode(picture).decode()
        yield f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'
    yield f"<details><summary>who they are</summary>{_html_list('ol', sheet.captions)}</details>"


def _html_list(tag: str, entries: Sequence[tuple[str, str]]) -> str:
    lines = [
        f"<li><b>{escape(name)}</b> {escape(reason)}".rstrip() + "</li>" for name, reason in entries
    ]
    return f"<{tag}>" + "\n".join(lines) + f"</{tag}>"
