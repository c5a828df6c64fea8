"""Conversion of another implementation's weights into our network, if both compute the same."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.model.build import build_network
from pipeline.model.conversion.layout import Layout, Tensors
from pipeline.model.conversion.princeton import PRINCETON
from pipeline.model.conversion.pytorch_pose import PYTORCH_POSE
from pipeline.model.conversion.recognition import layout_of
from pipeline.model.network import PoseNetwork
from pipeline.pose.joint_sets import JOINT_SETS, JointSet
from pipeline.settings import ModelSettings

LAYOUTS = (PYTORCH_POSE, PRINCETON)
# Older torch wrote none. Only BatchNorm without momentum, which no network here has, uses it.
_COUNTER = "num_batches_tracked"
_LISTED = 12


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A network of ours with converted weights.

    `carried` counts tensors, `rounded` names those that float32 does not hold exactly, `unused`
    those that the source network stores and never reads.
    """

    layout: Layout
    network: PoseNetwork
    model: ModelSettings
    carried: int
    rounded: tuple[str, ...]
    unused: tuple[str, ...]


def convert(tensors: Tensors, joint_set: JointSet) -> Conversion:
    """Build our network from the tensors of one of `LAYOUTS`, which predict `joint_set`.

    Both have BatchNorm and ReLU before each convolution of a residual, a bare skip, and
    convolution, BatchNorm, ReLU in stem and head, as ours has; tensors are copied unchanged.
    Raises ValueError that lists all keys without a counterpart.
    """
    layout = layout_of(tensors, LAYOUTS)
    model = layout.model(tensors)
    joints = len(joint_set.joints)
    if model.joints != joints:
        fitting = [name for name, one in JOINT_SETS.items() if len(one.joints) == model.joints]
        others = f"; with --joint-set {' or '.join(fitting)} they fit" if fitting else ""
        raise ValueError(
            f"predicts {model.joints} joints, expected {joints}, as many as {joint_set.name} has"
            f"{others}"
        )
    expected = build_network(model, 0, torch.device("meta")).state_dict()
    modules = layout.modules(model)
    source = {ours: _source_key(modules, ours) for ours in expected}
    unused = _unused(layout, modules, tensors, set(source.values()))
    problems = _problems(tensors, expected, source, unused)
    if problems:
        raise ValueError(_refusal(layout, model, layout.differences(tensors, model), problems))
    weights = {
        ours: tensors.get(key, torch.zeros((), dtype=torch.int64)) for ours, key in source.items()
    }
    network = build_network(model, 0, torch.device("cpu"))
    network.load_state_dict(weights)
    stored = network.state_dict()
    return Conversion(
        layout=layout,
        network=network,
        model=model,
        carried=sum(key in tensors for key in source.values()),
        rounded=tuple(
            key
            for ours, key in source.items()
            if not torch.equal(weights[ours].double(), stored[ours].double())
        ),
        unused=unused,
    )


def describe(layout: Layout, model: ModelSettings) -> str:
    """Name a network's layout and shape."""
    stem = f" ({model.stem_features} in the stem)" if model.stem_features else ""
    return (
        f"{layout.name}: {model.stacks} stacks, {model.modules} modules, order {model.order}, "
        f"{model.features} features{stem}, {model.joints} joints"
    )


def _source_key(modules: Mapping[str, str], ours: str) -> str:
    module, _, tensor = ours.rpartition(".")
    return f"{modules[module]}.{tensor}"


def _unused(
    layout: Layout, modules: Mapping[str, str], tensors: Tensors, used: set[str]
) -> tuple[str, ...]:
    if not layout.spare_skips:
        return ()
    skips = {source for ours, source in modules.items() if ours.endswith(".skip")}
    return tuple(key for key in tensors if key not in used and key.rpartition(".")[0] in skips)


def _problems(
    tensors: Tensors,
    expected: Mapping[str, Tensor],
    source: Mapping[str, str],
    unused: tuple[str, ...],
) -> list[str]:
    """List keys that are absent, of the wrong shape or type, not finite, or unknown."""
    found = []
    for ours, key in source.items():
        shape, tensor = tuple(expected[ours].shape), tensors.get(key)
        if tensor is None:
            if not ours.endswith(_COUNTER):
                found.append(f"{key} is absent, expected shape {shape}")
        elif tuple(tensor.shape) != shape:
            found.append(f"{key} has shape {tuple(tensor.shape)}, expected {shape}")
        elif tensor.is_floating_point() != expected[ours].is_floating_point():
            found.append(f"{key} is of {tensor.dtype}, expected {expected[ours].dtype}")
        elif not tensor.isfinite().all():
            found.append(f"{key} has values that are not finite")
    known = {*source.values(), *unused}
    return found + [
        f"{key} of shape {tuple(tensor.shape)} has no counterpart"
        for key, tensor in tensors.items()
        if key not in known
    ]


def _refusal(
    layout: Layout, model: ModelSettings, differences: list[str], problems: list[str]
) -> str:
    lines = [f"the network differs from ours, nothing was converted: {describe(layout, model)}"]
    lines += [f"  {line}" for line in (*differences, *problems[:_LISTED])]
    if len(problems) > _LISTED:
        lines.append(f"  and {len(problems) - _LISTED} more such keys")
    return "\n".join(lines)
