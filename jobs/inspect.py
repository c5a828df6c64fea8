"""Look at packed shards before training on them: `python -m jobs.inspect --help`."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from jobs.options import OutFolder, output_at
from pipeline.io.console import say_text
from pipeline.io.progress import ProgressBar
from pipeline.settings.cli import clear_errors, fail, parse

if TYPE_CHECKING:
    from pipeline.data.shards.index import ShardSet
    from pipeline.data.shards.reader import ShardReader
    from pipeline.pose.person import Split

_INPUT_PX = 256


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Print a dataset's card, and write it with contact sheets as a web page. Needs no cluster.

    Damaged samples are listed and excluded from all figures; if there are any,
    the command writes everything and exits with status 1.
    """

    shards: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SHARDS")]
    """Packed shards: globs or comma-separated globs, such as 'out/*.tar'."""
    out: OutFolder
    """Folder for index.html, card.json and the sheets as PNG files; also s3://, gs:// or az://."""
    seed: int = 0
    """Seed of the random people, and of their augmentation."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors():
        inspect_shards(arguments)


def inspect_shards(arguments: Arguments) -> None:
    """Read, print and write. Raises ValueError; at the end SystemExit if samples are damaged."""
    from pipeline.data.inspection.anomalies import anomalies
    from pipeline.data.inspection.card import card_of
    from pipeline.data.inspection.columns import columns_of
    from pipeline.data.inspection.page import card_page, card_text
    from pipeline.data.inspection.sheets import SHEET_FILES, draw_sheets
    from pipeline.data.loader import SampleLoader
    from pipeline.data.shards.index import find_shards
    from pipeline.data.shards.reader import ShardReader
    from pipeline.settings import DataSettings

    settings = DataSettings(seed=arguments.seed)
    # List all damaged samples, however many.
    shards = find_shards("SHARDS", ",".join(arguments.shards), bad_allowed=sys.maxsize)
    joint_set, reader = shards.joint_set, ShardReader(shards.paths)
    splits = _with_progress(_splits(shards, reader), len(reader))
    columns = columns_of(reader, splits, joint_set)
    found = anomalies(columns, joint_set)
    card = card_of(
        columns, found, joint_set=joint_set, source=shards.source, shards=len(shards.paths)
    )
    say_text(card_text(card))
    loader = SampleLoader(reader, joint_set, _INPUT_PX)
    sheets = list(draw_sheets(loader, columns, found, settings, arguments.seed))
    with output_at(arguments.out) as out:
        out.folder.mkdir(parents=True, exist_ok=True)
        # Left from an earlier run that had more sheets.
        out.remove(SHEET_FILES)
        for sheet in sheets:
            for name, picture in sheet.files.items():
                (out.folder / name).write_bytes(picture)
        (out.folder / "card.json").write_text(json.dumps(asdict(card), indent=1) + "\n")
        (out.folder / "index.html").write_text(card_page(card, sheets), encoding="utf-8")
        out.send(last=["index.html"])
    say_text(f"\nwritten: {out.at('index.html')}, card.json, {2 * len(sheets)} pictures")
    if columns.damaged:
        fail(f"damaged samples: {len(columns.damaged):,}; all are in {out.at('card.json')}")


def _with_progress(splits: "Iterable[Split]", samples: int) -> "Iterator[Split]":
    """Pass the splits on, and show the progress of the samples that are read beside them."""
    with ProgressBar(samples, "people", "inspecting") as progress:
        for done, split in enumerate(splits, start=1):
            yield split
            progress.to(done)


def _splits(shards: "ShardSet", reader: "ShardReader") -> "Iterator[Split]":
    """Yield the split of each sample, in the order of the shards."""
    for number, entry in enumerate(shards.entries):
        for _ in range(int(reader.bounds[number]), int(reader.bounds[number + 1])):
            yield entry.split


if __name__ == "__main__":
    main()
