"""Run-time checks of the package's annotations."""

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from inspect import isclass
from typing import Any, Self, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, install_import_hook, jaxtyped

# PEP 484 accepts an int for a float, and a float for a complex.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def install_checks(package: str) -> None:
    """Check calls of every function of a package that is imported later.

    jaxtyping's hook decorates them with `jaxtyped`, which builds all checks at import, and twice:
    half of collecting the tests, and most of the time of functions that are called for every
    person. Here checks are built at a function's first call, and axes are compared where there are
    any.
    """
    install_import_hook(package, None)
    jaxtyping.jaxtyped = _decorator


def _decorator(typechecker: None) -> Callable[[Any], Any]:
    return _checked


def _checked(target: Any) -> Any:
    """Decorate a function, or the constructor of a dataclass."""
    if not isclass(target):
        return _checked_later(target)
    if is_dataclass(target) and not hasattr(target.__init__, "__wrapped__"):
        target.__init__ = _checked_later(target.__init__)
    return target


def _checked_later(function: Callable) -> Callable:
    checked = None

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if checked is None:
            checked = _checked_now(function)
        return checked(*args, **kwargs)

    return call


def _checked_now(function: Callable) -> Callable:
    # The hook decorates single methods, for which beartype can't resolve `Self`.
    hints = {name: hint for name, hint in function.__annotations__.items() if hint is not Self}
    function.__annotations__ = hints
    checked = _check(function)
    if not any(map(_has_shape, hints.values())):
        return checked

    def with_axes(*args: Any, **kwargs: Any) -> Any:
        with jaxtyped("context"):
            return checked(*args, **kwargs)

    return with_axes


def _has_shape(hint: Any) -> bool:
    if isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(map(_has_shape, get_args(hint)))
