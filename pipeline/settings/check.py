"""How a setting that can't be is refused."""


def require(ok: bool, key: str, expected: str, got: object) -> None:
    """Raise ValueError naming the setting `key`, what was expected and what it got, unless `ok`."""
    if not ok:
        raise ValueError(f"{key} must be {expected}, got {got!r}")
