"""Search spaces: which settings a sweep replaces, by dotted key, and by what.

A point holds the replaced settings of one trial. Axes are settings with values
of their own, of which a grid is the product; listed points are settings that
only fit together, each multiplied by the axes.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.io.parsing import did_you_mean
from pipeline.settings.presets import settings_of

Point = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if both ends are."""

    low: float
    high: float
    log: bool = False
    """Drawn evenly by their logarithm."""
    step: float = 0.0
    """Distance between the numbers drawn; 0: none between fractions, 1 between whole numbers."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and (self.low <= 0 or self.step):
            raise ValueError(
                f"log needs a low above 0 and no step, got {self.low} and step {self.step}"
            )
        if self.step < 0:
            raise ValueError(f"step must be at least 0, got {self.step}")

    @property
    def is_whole(self) -> bool:
        """Whether it is of whole numbers."""
        return all(isinstance(end, int) for end in (self.low, self.high))


Values = tuple[Any, ...] | Range


@dataclass(frozen=True, kw_only=True)
class Space:
    """A search space; at least one of its parts says something."""

    name: str
    axes: Mapping[str, Values] = field(default_factory=dict)
    points: tuple[Point, ...] = ({},)

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings that vary."""
        return (*self.points[0], *self.axes)

    def grid(self) -> tuple[Point, ...]:
        """Every point, one a trial. Raises ValueError for an axis without an end of values."""
        for key, values in self.axes.items():
            if isinstance(values, Range):
                raise ValueError(
                    f"--space {self.name}: {key} is a range, which a grid cannot exhaust; give its "
                    "values, or use --search.method random or tpe"
                )
        return self._product(dict(self.axes))

    def samples(self) -> tuple[Point, ...]:
        """Points that between them have every value of every axis and both ends of every range."""
        ends = {key: _ends(values) for key, values in self.axes.items()}
        widest = max(map(len, ends.values()), default=1)
        return tuple(
            {key: values[min(row, len(values) - 1)] for key, values in ends.items()}
            for row in range(widest)
        )

    def _product(self, axes: dict[str, Any]) -> tuple[Point, ...]:
        rows = product(self.points, *axes.values())
        return tuple(point | dict(zip(axes, values, strict=True)) for point, *values in rows)


def _ends(values: Values) -> tuple[Any, ...]:
    return (values.low, values.high) if isinstance(values, Range) else values


# Stacks as the paper compares them (Newell et al., section 4.3).
_STACKS = (1, 2, 4, 8)
_SPACES = {
    space.name: space
    for space in (
        Space(name="stacks", axes={"model.stacks": _STACKS}),
        Space(name="stacks-modules", axes={"model.stacks": _STACKS, "model.modules": (1, 2, 4)}),
        Space(
            name="stacks-learning-rate",
            axes={"model.stacks": _STACKS, "optim.learning_rate": (1e-4, 2.5e-4, 1e-3)},
        ),
        Space(
            name="capacity",
            axes={
                "model.stacks": _STACKS,
                "model.modules": (1, 2),
                "model.features": (64, 128, 256),
            },
        ),
        # The same depth and about the same parameters in fewer or more stacks (figure 9).
        Space(
            name="ablation-stacks",
            points=tuple(
                {"model.stacks": stacks, "model.modules": modules}
                for stacks, modules in ((2, 4), (4, 2), (8, 1))
            ),
        ),
        # Where intermediate supervision goes (figure 8).
        Space(
            name="ablation-supervision",
            points=tuple(
                settings_of([name]) for name in ("hg", "hg-int", "hg-stacked", "hg-stacked-int")
            ),
        ),
        # Which start and scale keep mean squared error from all-zero heatmaps, and what
        # cross-entropy, which has no scale, does instead.
        Space(
            name="losses",
            points=tuple(
                {"optim.loss": loss, "optim.target_peak": peak, "optim.zero_heads": zero_heads}
                for loss, peak in (
                    *(("mse", 1.0), ("mse", 10.0), ("mse", 50.0)),
                    ("cross-entropy", 1.0),
                )
                for zero_heads in (True, False)
            ),
        ),
    )
}
SPACE_NAMES = tuple(_SPACES)


def space_of(named: str, given: Mapping[str, tuple[Any, ...]]) -> Space:
    """The space of a name or of a TOML file. Raises ValueError naming what is wrong with it.

    `given` values, by dotted key, replace those of its axes or add axes. Values
    of a setting that its listed points fix can't be given.
    """
    space = _read(Path(named)) if named.endswith(".toml") else _SPACES.get(named)
    if space is None:
        raise ValueError(
            f"--space must be one of {', '.join(SPACE_NAMES)}, or a TOML file, got {named!r}"
            f"{did_you_mean(named, SPACE_NAMES)}"
        )
    given = {key: values for key, values in given.items() if values}
    for key, values in given.items():
        if key in space.points[0]:
            raise ValueError(
                f"--space {space.name} sets {key} for each of its trials; no values of it can be given"
            )
        _check_values(f"--space {space.name}", key, values)
    return Space(name=space.name, axes={**space.axes, **given}, points=space.points)


def _read(path: Path) -> Space:
    """The space in a TOML file: `[axes]` with lists or tables of low, high, log and step, and `[[points]]`."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"--space {path}: {error}") from error
    for part in content:
        if part not in ("axes", "points"):
            raise ValueError(
                f"{path}: unknown part {part!r}; expected [axes] and [[points]]"
                f"{did_you_mean(part, ('axes', 'points'))}"
            )
    axes, points = content.get("axes", {}), content.get("points", [{}])
    if not axes and not any(points):
        raise ValueError(f"{path}: says nothing; expected [axes] or [[points]]")
    if not isinstance(axes, dict) or not isinstance(points, list):
        raise ValueError(f"{path}: expected a table [axes] and tables [[points]]")
    points = [_flat(point) for point in points]
    for number, point in enumerate(points, 1):
        if set(point) != set(points[0]):
            raise ValueError(
                f"{path}: point {number} sets {sorted(point)}, expected what the first sets, "
                f"{sorted(points[0])}"
            )
    flat_axes = _flat(axes)
    both = sorted(set(flat_axes) & set(points[0]))
    if both:
        raise ValueError(f"{path}: {both[0]} is set by [axes] and by [[points]]")
    return Space(
        name=path.stem,
        axes={key: _values(path, key, value) for key, value in flat_axes.items()},
        points=tuple(points),
    )


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys, whether they are written with quotes or, as TOML takes it, as tables within tables."""
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
            raise ValueError(
                f"{path}: {key}.{name} must be a {known[name][-1].__name__}, got {got!r}"
            )
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
        # True equals 1 for Python.
        if any(value == other and type(value) is type(other) for other in values[:number]):
            raise ValueError(
                f"{where}: {key} has {value!r} twice; trials of equal settings are one"
            )


def given_values(words: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    """Values by dotted key as the command line's `KEY=VALUE,VALUE` has them. Raises ValueError."""
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not text:
            raise ValueError(f"--vary must be like model.features=64,128, got {word!r}")
        found[key] = tuple(_scalar(value) for value in text.split(","))
    return found


def _scalar(text: str) -> Any:
    """A value as TOML reads it; what it does not know is a word."""
    # TOML wants a digit before an exponent's point, and people write 1e-3, which it has.
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def trial_name(point: Mapping[str, Any]) -> str:
    """A trial's name, made of what sets it apart: `stacks-2_learning_rate-0.001`."""
    text = "_".join(f"{key.partition('.')[2]}-{_text(value)}" for key, value in point.items())
    # It becomes a folder's, which takes no other letters and no longer names.
    return re.sub(r"[^\w.-]", "-", text)[:200]


def _text(value: Any) -> str:
    # 1e+30 without its plus, which names can't have.
    return f"{value:g}".replace("e+", "e") if isinstance(value, float) else str(value).lower()
