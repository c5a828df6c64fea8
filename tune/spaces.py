"""Search spaces: which settings a sweep replaces, by dotted key, and their values.

A point holds the replaced settings of one trial. An axis is a setting with
values of its own; a grid is the product of axes. Listed points are settings
that only fit together; each is multiplied by the axes.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.io.inside import read_whole
from pipeline.io.parsing import did_you_mean, parse_toml
from pipeline.settings.presets import settings_of

Point = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; whole numbers if both ends are."""

    low: float
    high: float
    log: bool = False
    """Drawn uniformly on a logarithmic scale."""
    step: float = 0.0
    """Distance between the numbers drawn; 0: continuous, or 1 between whole numbers."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError(
                f"log needs a low above 0 and no step, got {self.low} and step {self.step}"
            )
        if self.step < 0:
            raise ValueError(f"step must be at least 0, got {self.step}")

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return all(isinstance(end, int) for end in (self.low, self.high))


Values = tuple[Any, ...] | Range


@dataclass(frozen=True, kw_only=True)
class Space:
    """A search space of axes, points, or both."""

    name: str
    axes: Mapping[str, Values] = field(default_factory=dict)
    points: tuple[Point, ...] = ({},)

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.points[0], *self.axes)

    def grid(self) -> tuple[Point, ...]:
        """Return every point, one for each trial. Raises ValueError if an axis is a range."""
        axes: dict[str, tuple[Any, ...]] = {}
        for key, values in self.axes.items():
            if isinstance(values, Range):
                raise ValueError(
                    f"--space {self.name}: {key} is a range, which a grid cannot exhaust; give its "
                    "values, or use --search.method random or tpe"
                )
            axes[key] = values
        rows = product(self.points, *axes.values())
        return tuple(point | dict(zip(axes, values, strict=True)) for point, *values in rows)

    def samples(self) -> tuple[Point, ...]:
        """Return points that together have every value of each axis and both ends of each range."""
        ends = {
            key: (values.low, values.high) if isinstance(values, Range) else values
            for key, values in self.axes.items()
        }
        widest = max(map(len, ends.values()), default=1)
        return tuple(
            {key: values[min(row, len(values) - 1)] for key, values in ends.items()}
            for row in range(widest)
        )


# Stacks as the paper compares them (Newell et al., section 4.3).
_STACKS: dict[str, Values] = {"model.stacks": (1, 2, 4, 8)}
_AXES: dict[str, dict[str, Values]] = {
    "stacks": _STACKS,
    "stacks-modules": _STACKS | {"model.modules": (1, 2, 4)},
    "stacks-learning-rate": _STACKS | {"optim.learning_rate": (1e-4, 2.5e-4, 1e-3)},
    "capacity": _STACKS | {"model.modules": (1, 2), "model.features": (64, 128, 256)},
}
_POINTS: dict[str, list[Point]] = {
    # Equal depth and about equal parameters, in fewer or more stacks (figure 9).
    "ablation-stacks": [
        {"model.stacks": stacks, "model.modules": modules}
        for stacks, modules in ((2, 4), (4, 2), (8, 1))
    ],
    # Placement of intermediate supervision (figure 8).
    "ablation-supervision": [
        settings_of([name]) for name in ("hg", "hg-int", "hg-stacked", "hg-stacked-int")
    ],
    # Shows which start and scale keep mean squared error away from all-zero heatmaps, and
    # cross-entropy, which has no scale, beside it.
    "losses": [
        {"optim.loss": loss, "optim.target_peak": peak, "optim.zero_heads": zero_heads}
        for loss, peak in (("mse", 1.0), ("mse", 10.0), ("mse", 50.0), ("cross-entropy", 1.0))
        for zero_heads in (True, False)
    ],
}
_SPACES = {name: Space(name=name, axes=axes) for name, axes in _AXES.items()} | {
    name: Space(name=name, points=tuple(points)) for name, points in _POINTS.items()
}


def space_of(named: str, given: Mapping[str, tuple[Any, ...]]) -> Space:
    """Return the space of a name or of a TOML file.

    `given` values, by dotted key, replace those of its axes or add axes. Raises ValueError if the
    name is unknown, the file is wrong, or `given` holds a setting of the listed points.
    """
    space = _read(Path(named)) if named.endswith(".toml") else _SPACES.get(named)
    if space is None:
        raise ValueError(
            f"--space must be one of {', '.join(_SPACES)}, or a TOML file, got {named!r}"
            f"{did_you_mean(named, _SPACES)}"
        )
    given = {key: values for key, values in given.items() if values}
    for key, values in given.items():
        if key in space.points[0]:
            raise ValueError(
                f"--space {space.name} sets {key} for each of its trials; no values of it can be "
                "given"
            )
        _check_values(f"--space {space.name}", key, values)
    return Space(name=space.name, axes={**space.axes, **given}, points=space.points)


def _read(path: Path) -> Space:
    """Read a TOML file: `[axes]` of lists or tables (low, high, log, step), and `[[points]]`."""
    try:
        content = parse_toml(read_whole(path), f"--space {path}")
    except OSError as error:
        raise ValueError(f"--space {path}: {error.strerror}") from error
    for part in content:
        if part not in ("axes", "points"):
            raise ValueError(
                f"{path}: unknown part {part!r}; expected [axes] and [[points]]"
                f"{did_you_mean(part, ('axes', 'points'))}"
            )
    axes, points = content.get("axes", {}), content.get("points", [{}])
    if not axes and not any(points):
        raise ValueError(f"{path}: is empty; expected [axes] or [[points]]")
    if not isinstance(axes, dict) or not isinstance(points, list):
        raise ValueError(f"{path}: expected a table [axes] and tables [[points]]")
    axes, points = _flat(axes), [_flat(point) for point in points]
    for number, point in enumerate(points, 1):
        if set(point) != set(points[0]):
            raise ValueError(
                f"{path}: point {number} sets {sorted(point)}, expected what the first sets, "
                f"{sorted(points[0])}"
            )
    both = sorted(set(axes) & set(points[0]))
    if both:
        raise ValueError(f"{path}: {both[0]} is set by [axes] and by [[points]]")
    return Space(
        name=path.stem,
        axes={key: _values(path, key, value) for key, value in axes.items()},
        points=tuple(points),
    )


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys, whether they are quoted or, as TOML reads dots, tables in tables."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if "." not in key and isinstance(value, dict):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            found[key] = value
    return found


def _values(path: Path, key: str, value: Any) -> Values:
    if isinstance(value, list):
        _check_values(str(path), key, tuple(value))
        return tuple(value)
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: {key} must be a list of values or a table with low and high, got {value!r}"
        )
    known = {"low": (int, float), "high": (int, float), "log": (bool,), "step": (int, float)}
    for name, got in value.items():
        if name not in known:
            raise ValueError(f"{path}: {key} has no {name!r}; expected {', '.join(known)}")
        if type(got) not in known[name]:
            expected = known[name][-1].__name__
            raise ValueError(f"{path}: {key}.{name} must be a {expected}, got {got!r}")
    missing = [name for name in ("low", "high") if name not in value]
    if missing:
        raise ValueError(f"{path}: {key} lacks {' and '.join(missing)}")
    try:
        return Range(**value)
    except ValueError as error:
        raise ValueError(f"{path}: {key}: {error}") from error


def _check_values(where: str, key: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise ValueError(f"{where}: {key} must have at least one value")
    for number, value in enumerate(values):
        # True equals 1 in Python.
        if any(value == other and type(value) is type(other) for other in values[:number]):
            raise ValueError(
                f"{where}: {key} has {value!r} twice; trials of equal settings are one"
            )


def given_values(words: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    """Parse the command line's `KEY=VALUE,VALUE` to values by dotted key. Raises ValueError."""
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not text:
            raise ValueError(f"--vary must be like model.features=64,128, got {word!r}")
        found[key] = tuple(_scalar(value) for value in text.split(","))
    return found


def _scalar(text: str) -> Any:
    """Parse a value as TOML does, 1e-3 included; anything else is a word."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def trial_name(point: Mapping[str, Any]) -> str:
    """Name a trial by its point, as a folder may be named: `stacks-2_learning_rate-0.001`."""
    text = "_".join(f"{key.partition('.')[2]}-{_text(value)}" for key, value in point.items())
    return re.sub(r"[^\w.-]", "-", text)[:200]


def _text(value: Any) -> str:
    # Names cannot have the plus of 1e+30.
    return f"{value:g}".replace("e+", "e") if isinstance(value, float) else str(value).lower()
