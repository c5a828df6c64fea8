"""Checks that refuse a setting by its dotted key."""

import re

# Longest name: file systems allow 255 bytes, and temporary names are longer.
_LONGEST = 200


def require(ok: bool, key: str, expected: str, got: object) -> None:
    """Raise ValueError with the setting's key, the expected and the given value, unless `ok`."""
    if not ok:
        raise ValueError(f"{key} must be {expected}, got {got!r}")


def require_at_least(settings: object, section: str, least: int, *names: str) -> None:
    """Raise ValueError if a field of `section` is below `least`."""
    for name in names:
        value = getattr(settings, name)
        require(value >= least, f"{section}.{name}", f"at least {least}", value)


def require_above_zero(settings: object, section: str, *names: str) -> None:
    """Raise ValueError if a field of `section` is not positive."""
    for name in names:
        value = getattr(settings, name)
        require(value > 0, f"{section}.{name}", "above 0", value)


def require_at_most_one(settings: object, section: str, *names: str) -> None:
    """Raise ValueError if a field of `section` is not from 0 to 1."""
    for name in names:
        value = getattr(settings, name)
        require(0 <= value <= 1, f"{section}.{name}", "from 0 to 1", value)


def require_name(key: str, value: str) -> None:
    """Raise ValueError unless a name can be that of a folder, and stands in URLs as it is."""
    expected = "made of letters, digits, '.', '_' and '-', the first a letter, digit or '_', "
    expected += f"with at most {_LONGEST} in all"
    fits = not value or re.fullmatch(r"\w[\w.-]*", value) is not None
    require(fits and len(value.encode()) <= _LONGEST, key, expected, value)
