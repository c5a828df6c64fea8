"""Run-time checks of the package's annotations, for jaxtyping's import hook."""

from collections.abc import Callable
from typing import Self

from beartype import BeartypeConf, beartype

# PEP 484 accepts an int for a float, and a float for a complex.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable) -> Callable:
    """Check calls of `function` against its annotations, except `Self`.

    The hook decorates single methods, for which beartype can't resolve `Self`.
    """
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if hint is not Self
    }
    return _check(function)
