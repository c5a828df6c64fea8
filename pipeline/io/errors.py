"""How commands fail: with a sentence instead of a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from pipeline.io.redaction import redacted

_FAILED, _BAD_INPUT = 1, 2


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the program with one sentence where the input was wrong (status 2) or the disk refused (1)."""
    try:
        yield
    except ValueError as error:
        fail(str(error), _BAD_INPUT)
    except OSError as error:
        fail(str(error), _FAILED)


def fail(message: str, status: int = _FAILED) -> NoReturn:
    """End the program with a message on standard error, without secrets."""
    print(f"error: {redacted(message)}", file=sys.stderr, flush=True)
    raise SystemExit(status)
