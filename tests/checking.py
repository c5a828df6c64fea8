"""How the annotations of the package are checked while the tests run."""

from collections.abc import Callable
from typing import Self

from beartype import BeartypeConf, beartype

# By PEP 484 an int is welcome where a float is annotated, and a float where a complex is.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable) -> Callable:
    """Check calls of `function` against its annotations, but for `Self`.

    Methods are checked one by one, where beartype cannot tell what `Self` is.
    """
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if hint is not Self
    }
    return _check(function)
