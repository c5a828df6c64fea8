"""Names of modules in public implementations of the network, by our names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from pipeline.settings import ModelSettings

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An implementation's names of our modules, and properties that its files don't state.

    Templates take `stack`, counted from 0, and `module` of a row of residuals; `hourglass` also
    `height` above the innermost level, a `nested` prefix for each level above, and the `branch`.
    `model` derives the network's settings from keys and shapes, or raises ValueError;
    `differences` lists the known ways in which such a network differs from ours. With
    `spare_skips` files have a skip's convolution even where the skip is the identity.
    """

    name: str
    stem_conv: str
    stem_norm: str
    stem_residuals: tuple[str, str, str]
    hourglass: str
    branches: Mapping[str, str]
    residuals: str
    stack: Mapping[str, str]
    residual: Mapping[str, str]
    model: Callable[[Tensors], ModelSettings]
    differences: Callable[[Tensors, ModelSettings], list[str]]
    nested: str = ""
    spare_skips: bool = False
    input_range: str

    def signs(self) -> tuple[str, str, str]:
        """Return how keys of the stem, the first hourglass and the first head begin."""
        hourglass, _, _ = self.hourglass.partition("{stack}")
        head = self.stack["head"].format(stack=0)
        return f"{self.stem_conv}.weight", f"{hourglass}0.", f"{head}.weight"

    def modules(self, model: ModelSettings) -> dict[str, str]:
        """Map each of our modules with tensors, and every residual's skip, to its source name."""
        found = {"stem_conv": self.stem_conv, "stem_norm": self.stem_norm}
        residuals = {
            f"stem_residual{number}": name
            for number, name in enumerate(self.stem_residuals, start=1)
        }
        for stack in range(model.stacks):
            for ours, name in self.stack.items():
                found[f"stacks.{stack}.{ours}"] = name.format(stack=stack)
            for module in range(model.modules):
                name = self.residuals.format(stack=stack, module=module)
                residuals[f"stacks.{stack}.residuals.{module}"] = name
                residuals |= self._hourglass_residuals(model.order, stack, module)
        return found | {
            f"{ours}.{part}": f"{name}.{part_name}"
            for ours, name in residuals.items()
            for part, part_name in self.residual.items()
        }

    def _hourglass_residuals(self, order: int, stack: int, module: int) -> dict[str, str]:
        return {
            f"stacks.{stack}.hourglass.{'inner.' * level}{branch}.{module}": self.hourglass.format(
                stack=stack,
                module=module,
                height=order - 1 - level,
                nested=self.nested * level,
                branch=name,
            )
            for level in range(order)
            for branch, name in self.branches.items()
            # Above the innermost level `inner` is the next hourglass.
            if branch != "inner" or level == order - 1
        }


def count(tensors: Tensors, pattern: str) -> int:
    """Count the different numbers in place of `#` in keys that begin with `pattern`."""
    places = re.compile(re.escape(pattern).replace(r"\#", r"(\d+)"))
    return len({match[1] for key in tensors if (match := places.match(key))})


def channels(tensors: Tensors, key: str) -> tuple[int, int]:
    """Return outputs and inputs of a convolution's weight; zeros if the key is absent."""
    tensor = tensors.get(key)
    return (0, 0) if tensor is None or tensor.dim() != 4 else (tensor.shape[0], tensor.shape[1])


def head_channels(tensors: Tensors, key: str) -> tuple[int, int]:
    """Return joints and features by the first head's weight. Raises ValueError without one."""
    joints, features = channels(tensors, key)
    if not joints:
        raise ValueError(
            f"{key} is absent or not a convolution, expected shape (joints, features, 1, 1)"
        )
    return joints, features
