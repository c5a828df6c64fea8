"""Look at packed shards before training on them: `python -m jobs.inspect --help`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from pipeline.command import clear_errors, parse
from pipeline.progress import Pace, bar, duration, say

if TYPE_CHECKING:
    from pipeline.data.people import Split
    from pipeline.shards.index import ShardSet
    from pipeline.shards.read import ShardReader
    from pipeline.shards.sample import Sample

_INPUT_PX = 256


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Print a dataset's card, and write it with contact sheets as a page to look at. Needs no cluster."""

    shards: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SHARDS")]
    """Packed shards: globs or comma-separated globs, such as 'out/*.tar'."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for index.html, card.json and the sheets as PNG files."""
    seed: int = 0
    """Seed of the random people, and of their augmentation."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        inspect_shards(arguments)


def inspect_shards(arguments: Arguments) -> None:
    """Read, print and write. Raises ValueError."""
    from pipeline.inspection.anomalies import anomalies
    from pipeline.inspection.card import card_of
    from pipeline.inspection.columns import columns_of
    from pipeline.inspection.page import card_page, card_text
    from pipeline.inspection.sheets import SHEET_FILES, draw_sheets
    from pipeline.settings import DataSettings
    from pipeline.shards.index import find_shards
    from pipeline.shards.read import ShardReader
    from pipeline.shards.stream import SampleLoader

    settings = DataSettings(seed=arguments.seed)
    shards = find_shards("SHARDS", ",".join(arguments.shards))
    joint_set, reader = shards.joint_set, ShardReader(shards.paths)
    columns = columns_of(_with_progress(reader), _splits(shards, reader), joint_set)
    found = anomalies(columns, joint_set)
    card = card_of(
        columns, found, joint_set=joint_set, source=shards.source, shards=len(shards.paths)
    )
    say(card_text(card))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in SHEET_FILES:
        # An earlier look may have had a sheet that this one has not.
        (arguments.out / name).unlink(missing_ok=True)
    loader = SampleLoader(reader, joint_set, _INPUT_PX)
    sheets = list(draw_sheets(loader, columns, found, settings, arguments.seed))
    for sheet in sheets:
        for name, picture in sheet.files.items():
            (arguments.out / name).write_bytes(picture)
    (arguments.out / "card.json").write_text(json.dumps(card.as_dict(), indent=1) + "\n")
    (arguments.out / "index.html").write_text(card_page(card, sheets), encoding="utf-8")
    say(f"\nwritten: {arguments.out}/index.html, card.json, {2 * len(sheets)} pictures")


def _with_progress(reader: "ShardReader") -> "Iterator[Sample]":
    pace = Pace(2.0)
    for done, sample in enumerate(reader):
        yield sample
        if pace.is_due():
            left = duration(pace.left_s(done + 1, len(reader)))
            say(f"{bar(done + 1, len(reader))} people  left {left}")


def _splits(shards: "ShardSet", reader: "ShardReader") -> "Iterator[Split]":
    """The split of each sample, in the order of the shards."""
    for number, entry in enumerate(shards.entries):
        for _ in range(int(reader.bounds[number]), int(reader.bounds[number + 1])):
            yield entry.split


if __name__ == "__main__":
    main()
