"""Checks of an acceptance: a value, its bound, and whether it holds."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Check:
    """A measured value; without a `bound` it is a fact that cannot fail."""

    name: str
    value: float | str
    bound: str = ""
    ok: bool = True

    @property
    def line(self) -> str:
        """Name, value, bound and verdict."""
        value = self.value if isinstance(self.value, str) else f"{self.value:.6g}"
        verdict = f"  ({self.bound})  {'ok' if self.ok else 'FAILED'}" if self.bound else ""
        return f"  {self.name}: {value}{verdict}"


def fact(name: str, value: float | str) -> Check:
    """Return a value that is only recorded."""
    return Check(name=name, value=value)


def at_most(name: str, value: float, bound: float) -> Check:
    """Check that a value is finite and at most `bound`."""
    ok = math.isfinite(value) and value <= bound
    return Check(name=name, value=value, bound=f"at most {bound:g}", ok=ok)


def at_least(name: str, value: float, bound: float) -> Check:
    """Check that a value is finite and at least `bound`."""
    ok = math.isfinite(value) and value >= bound
    return Check(name=name, value=value, bound=f"at least {bound:g}", ok=ok)


def equal(name: str, value: float | str, expected: float | str) -> Check:
    """Check that a value is the expected one."""
    return Check(name=name, value=value, bound=f"equal to {expected}", ok=value == expected)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the parts run; on a CPU they are `small`. `minutes` is the length of the training."""

    device: torch.device
    minutes: float = 1.0

    @property
    def is_gpu(self) -> bool:
        """Whether the parts that only a GPU has run too."""
        return self.device.type == "cuda"
