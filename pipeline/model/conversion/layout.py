"""How a public implementation of the network names its modules, by our own names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from pipeline.settings import ModelSettings

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Their names of our modules, and what their files leave unsaid.

    Templates take `stack`, counted from 0, and `module` of a row of residuals;
    `hourglass` also `height` above the innermost level, a `nested` prefix for
    each level above, and the `branch`. `model` reads the network's shape off
    the keys and shapes, or raises ValueError; `differences` says in which known
    ways such a network is not ours.
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
    """Whether a skip's convolution is stored, unused, where the skip is the identity."""
    input_range: str

    def modules(self, model: ModelSettings) -> dict[str, str]:
        """Their name of each of our modules with tensors; of every residual also the skip."""
        found = {"stem_conv": self.stem_conv, "stem_norm": self.stem_norm}
        residuals = {
            f"stem_residual{number}": theirs
            for number, theirs in enumerate(self.stem_residuals, start=1)
        }
        for stack in range(model.stacks):
            for ours, theirs in self.stack.items():
                found[f"stacks.{stack}.{ours}"] = theirs.format(stack=stack)
            for module in range(model.modules):
                theirs = self.residuals.format(stack=stack, module=module)
                residuals[f"stacks.{stack}.residuals.{module}"] = theirs
                residuals |= self._of_hourglass(model.order, stack, module)
        return found | {
            f"{ours}.{part}": f"{theirs}.{their_part}"
            for ours, theirs in residuals.items()
            for part, their_part in self.residual.items()
        }

    def _of_hourglass(self, order: int, stack: int, module: int) -> dict[str, str]:
        return {
            f"stacks.{stack}.hourglass.{'inner.' * level}{branch}.{module}": self.hourglass.format(
                stack=stack,
                module=module,
                height=order - 1 - level,
                nested=self.nested * level,
                branch=theirs,
            )
            for level in range(order)
            for branch, theirs in self.branches.items()
            # Above the innermost level `inner` is the next hourglass.
            if branch != "inner" or level == order - 1
        }


def count(tensors: Tensors, pattern: str) -> int:
    """Count the different numbers in the place of `#` in keys that begin with `pattern`."""
    places = re.compile(re.escape(pattern).replace(r"\#", r"(\d+)"))
    return len({match[1] for key in tensors if (match := places.match(key))})


def channels(tensors: Tensors, key: str) -> tuple[int, int]:
    """Outputs and inputs of a convolution's weight; zeros if there is none of that key."""
    tensor = tensors.get(key)
    return (0, 0) if tensor is None or tensor.dim() != 4 else (tensor.shape[0], tensor.shape[1])


def head_channels(tensors: Tensors, key: str) -> tuple[int, int]:
    """Joints and features, by the weight of the first stack's head. Raises ValueError if it is absent."""
    joints, features = channels(tensors, key)
    if not joints:
        raise ValueError(
            f"{key} is absent or no convolution, expected shape (joints, features, 1, 1)"
        )
    return joints, features
