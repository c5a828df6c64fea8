"""The cells of a user's table, CSV or Parquet, which errors name by line and column."""

import csv
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.formats.annotations import reading
from pipeline.io.installation import command
from pipeline.io.unfolding import bound_of

# pandas and R write these for a number that is not there, as others leave the cell empty.
_NOTHING = ("", "nan", "na")
# A pandas index that went into the file beside the columns.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")
# Rows whose texts are in memory at once while their size is found.
_TEXTS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Cells by column and row. `rows` are the names of the rows in errors, such as `line 2`."""

    path: Path
    columns: dict[str, list[Any]]
    rows: list[str]

    def wrong(self, column: str, row: int, expected: str) -> ValueError:
        """Make the error that names a cell, its content, and what was expected."""
        value = self.columns[column][row]
        got = "nothing" if _is_empty(value) else repr(value)
        return ValueError(
            f"{self.path}: {self.rows[row]}, column {column}: expected {expected}, got {got:.80}"
        )

    def has(self, row: int, *columns: str) -> bool:
        """Whether any of these columns is there and holds something."""
        return any(
            column in self.columns and not _is_empty(self.columns[column][row])
            for column in columns
        )

    def text(self, column: str, row: int, expected: str) -> str:
        """Return a cell's text, stripped. Raises ValueError if it is empty or no text."""
        value = self.columns[column][row]
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(column, row, expected)
        return value.strip()

    def number(
        self,
        column: str,
        row: int,
        expected: str = "a number",
        is_right: Callable[[float], bool] = math.isfinite,
    ) -> float:
        """Return a cell's finite number. Raises ValueError unless it is one, and `is_right`."""
        value = self.columns[column][row]
        try:
            # float() would take True for 1, and 1_0 for 10.
            number = math.nan if isinstance(value, bool) or "_" in str(value) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and is_right(number)):
            raise self.wrong(column, row, expected)
        return number

    def positive(self, column: str, row: int) -> float:
        """Return a cell's number above 0. Raises ValueError."""
        return self.number(column, row, "a number above 0", lambda number: number > 0)

    def whole(self, column: str, row: int, least: int) -> int:
        """Return a cell's whole number, at least `least`. Raises ValueError."""

        def is_right(number: float) -> bool:
            return number >= least and number.is_integer()

        return int(self.number(column, row, f"a whole number from {least}", is_right))


def read_cells(path: Path) -> Cells:
    """Read a table by its suffix, .csv or .parquet.

    CSV is UTF-8, separated by commas, with a header; empty lines are skipped. Raises ValueError
    naming the file, and in CSV the line.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"{path}: expected a table whose name ends in .csv or .parquet, with a row per person "
            "(docs/custom-joints.md)"
        )
    return readers[path.suffix.lower()](path)


def _read_csv(path: Path) -> Cells:
    # Not by pandas, which fills up short lines, shifts those with a cell too many, and
    # doesn't tell on which line a cell stood.
    rows, records = [], []
    with (
        reading(path, "CSV in UTF-8", csv.Error, UnicodeDecodeError, OSError),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        lines = csv.reader(file, strict=True)
        header = _header(path, next(lines, []))
        end = lines.line_num
        for record in lines:
            start, end = end + 1, lines.line_num
            if not any(cell.strip() for cell in record):
                continue
            if len(record) != len(header):
                raise ValueError(
                    f"{path}: line {start}: expected {len(header)} cells as in the header, "
                    f"got {len(record)}"
                )
            rows.append(f"line {start}")
            records.append(record)
    columns = {name: [record[n] for record in records] for n, name in enumerate(header)}
    return Cells(path=path, columns=columns, rows=rows)


def _read_parquet(path: Path) -> Cells:
    import pyarrow
    import pyarrow.parquet

    # The file alone: a folder named key=value above it is no column.
    with (
        reading(path, "Parquet", pyarrow.ArrowException, OSError, UnicodeDecodeError),
        path.open("rb") as file,
    ):
        _check_unfolded(pyarrow.parquet.ParquetFile(file), path)
        table = pyarrow.parquet.read_table(file)
        names = table.column_names
        kept = [n for n, name in enumerate(names) if not _PANDAS_INDEX.fullmatch(name)]
        values = [table.column(n).to_pylist() for n in kept]
    header = _header(path, [names[n] for n in kept])
    columns = dict(zip(header, values, strict=True))
    rows = [f"row {row + 1}" for row in range(table.num_rows)]
    return Cells(path=path, columns=columns, rows=rows)


def _check_unfolded(file: Any, path: Path) -> None:
    """Raise ValueError if a Parquet file states far more than it holds.

    A number may stand in it once for any number of rows, and so may a text.
    """
    most, metadata = bound_of(path.stat().st_size), file.metadata
    chunks = [
        group.column(n)
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for n in range(group.num_columns)
    ]
    # At least what a list needs for a value.
    sizes = [8 * sum(chunk.num_values for chunk in chunks)]
    sizes.append(sum(chunk.total_uncompressed_size for chunk in chunks))
    texts = {chunk.path_in_schema for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"}
    if texts and max(sizes) <= most:
        sizes.append(0)
        for batch in file.iter_batches(batch_size=_TEXTS_AT_ONCE, columns=sorted(texts)):
            for column in batch.columns:
                is_coded = hasattr(column, "dictionary_decode")
                sizes[-1] += (column.dictionary_decode() if is_coded else column).nbytes
            if sizes[-1] > most:
                break
    if max(sizes) > most:
        raise ValueError(f"{path} would unfold to {max(sizes):,} bytes, expected at most {most:,}")


def _header(path: Path, names: list[str]) -> list[str]:
    """Strip and check the names of the columns."""
    header = [name.strip() for name in names]
    if header and header[0].lower() == "scorer":
        raise ValueError(
            f"{path}: expected one row of column names, got DeepLabCut's rows scorer, bodyparts "
            "and coords; give it as it is instead: "
            f"{shlex.join([*command('jobs.pack'), str(path)])}"
        )
    if not any(header):
        raise ValueError(f"{path}: expected a header of columns, got none")
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            raise ValueError(f"{path}: expected columns separated by commas, got {called}")
    if "" in header:
        raise ValueError(
            f"{path}: column {header.index('') + 1} has no name; if it is pandas' index, write "
            "the table with index=False"
        )
    for name, count in Counter(header).items():
        if count > 1:
            raise ValueError(f"{path}: column {name!r} is there {count} times, expected once")
    return header


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in _NOTHING
    return value is None or (isinstance(value, float) and math.isnan(value))
