"""Bounds of a request to a served model: rows, and the bytes and pixels of its images."""

import io
from typing import Any

# A server has a request's images in memory at once, and one of them decoded.
MOST_ROWS = 1024
MOST_BYTES = 60 * 2**20
MOST_PIXELS = 40_000_000
# For what all images of a request cost to decode: from ten seconds of a CPU, for JPEG, to a minute
# and a half, for the slowest PNG.
MOST_PIXELS_IN_ALL = 10**9
_PARQUET = "application/vnd.apache.parquet"


def check_rows(rows: int) -> None:
    """Raise ValueError for more rows than a request may have."""
    if rows > MOST_ROWS:
        raise ValueError(f"a request of {rows:,} rows, expected at most {MOST_ROWS:,}")


def check_bytes(size: int) -> None:
    """Raise ValueError if a request's images have more bytes together than they may."""
    if size > MOST_BYTES:
        raise ValueError(f"images of {size:,} bytes in all, expected at most {MOST_BYTES:,}")


def check_pixels_in_all(pixels: int) -> None:
    """Raise ValueError if a request's images have more pixels together than they may."""
    if pixels > MOST_PIXELS_IN_ALL:
        raise ValueError(
            f"images of {pixels:,} pixels in all, expected at most {MOST_PIXELS_IN_ALL:,}"
        )


def check_body(body: Any, content_type: Any) -> None:
    """Check a request in Parquet, which may hold an image once and state it a million times.

    Raises ValueError before its table is in memory. Other bodies are as large as their tables, and
    damage is left to the server's own reader.
    """
    if not isinstance(body, bytes) or str(content_type).partition(";")[0].strip() != _PARQUET:
        return
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(body))
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        check_rows(max(file.metadata.num_rows, sum(group.num_rows for group in groups)))
        check_bytes(sum(group.total_byte_size for group in groups))
        size = 0
        for batch in file.iter_batches(batch_size=1):
            size += batch.nbytes
            check_bytes(size)
    # Names of columns that are no UTF-8.
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError):
        return
