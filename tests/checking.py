"""Run-time checks of the package's annotations, for jaxtyping's import hook."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, Self

from beartype import BeartypeConf, beartype

# PEP 484 accepts an int for a float, and a float for a complex.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable) -> Callable:
    """Check calls of `function` against its annotations, except `Self`.

    The hook decorates single methods, for which beartype can't resolve `Self`. Checks are made
    at the first call: most functions are never called by the tests of one process.
    """
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if hint is not Self
    }
    check = cache(lambda: _check(function))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return check()(*args, **kwargs)

    return call
