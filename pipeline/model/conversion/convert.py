"""Carry another implementation's weights over into our network, where the two compute the same."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.model.conversion.layout import Layout, Tensors
from pipeline.model.conversion.princeton import PRINCETON
from pipeline.model.conversion.pytorch_pose import PYTORCH_POSE
from pipeline.model.hourglass import StackedHourglass
from pipeline.pose.joint_sets import JointSet
from pipeline.settings import ModelSettings

LAYOUTS = (PYTORCH_POSE, PRINCETON)
# Older torch wrote none. It counts for BatchNorm without momentum alone, which nobody uses here.
_COUNTER = "num_batches_tracked"
_LISTED = 12


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A network of ours with their weights. `unused` are keys whose tensors their network never reads."""

    layout: Layout
    network: StackedHourglass
    model: ModelSettings
    carried: int
    rounded: tuple[str, ...]
    unused: tuple[str, ...]


def convert(tensors: Tensors, joint_set: JointSet) -> Conversion:
    """Build our network from the tensors of one of `LAYOUTS`, whose joints are those of `joint_set`.

    Both have BatchNorm and ReLU before each convolution of a residual, a bare
    skip, and convolution, BatchNorm, ReLU in stem and head, as we do; tensors
    are carried as they are. Raises ValueError that lists what has no equal.
    """
    layout = _layout(tensors)
    model = layout.model(tensors)
    joints = len(joint_set.joints)
    if model.joints != joints:
        raise ValueError(
            f"predicts {model.joints} joints, expected {joints}, as many as {joint_set.name} has"
        )
    with torch.device("meta"):
        expected = StackedHourglass(model).state_dict()
    modules = layout.modules(model)
    source = {ours: _their_key(modules, ours) for ours in expected}
    unused = _unused(layout, modules, tensors, set(source.values()))
    problems = _problems(tensors, expected, source, unused)
    if problems:
        raise ValueError(_refusal(layout, model, layout.differences(tensors, model), problems))
    weights = {
        ours: tensors.get(theirs, torch.zeros((), dtype=torch.int64))
        for ours, theirs in source.items()
    }
    network = StackedHourglass(model)
    network.load_state_dict(weights)
    return Conversion(
        layout=layout,
        network=network,
        model=model,
        carried=sum(theirs in tensors for theirs in source.values()),
        rounded=tuple(
            theirs
            for ours, theirs in source.items()
            if not torch.equal(weights[ours].double(), network.state_dict()[ours].double())
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


def _layout(tensors: Tensors) -> Layout:
    for layout in LAYOUTS:
        if f"{layout.stem_conv}.weight" in tensors:
            return layout
    known = " or ".join(f"{layout.stem_conv}.weight ({layout.name})" for layout in LAYOUTS)
    raise ValueError(f"unknown layout: expected a key {known}, got {', '.join(list(tensors)[:4])}")


def _their_key(modules: Mapping[str, str], ours: str) -> str:
    module, _, tensor = ours.rpartition(".")
    return f"{modules[module]}.{tensor}"


def _unused(
    layout: Layout, modules: Mapping[str, str], tensors: Tensors, used: set[str]
) -> tuple[str, ...]:
    if not layout.spare_skips:
        return ()
    skips = {theirs for ours, theirs in modules.items() if ours.endswith(".skip")}
    return tuple(key for key in tensors if key not in used and key.rpartition(".")[0] in skips)


def _problems(
    tensors: Tensors,
    expected: Mapping[str, Tensor],
    source: Mapping[str, str],
    unused: tuple[str, ...],
) -> list[str]:
    """Every key that is absent, of another shape or type, not finite, or unknown here; a phrase each."""
    found = []
    for ours, theirs in source.items():
        shape, tensor = tuple(expected[ours].shape), tensors.get(theirs)
        if tensor is None:
            if not ours.endswith(_COUNTER):
                found.append(f"{theirs} is absent, expected shape {shape}")
        elif tuple(tensor.shape) != shape:
            found.append(f"{theirs} has shape {tuple(tensor.shape)}, expected {shape}")
        elif tensor.is_floating_point() != expected[ours].is_floating_point():
            found.append(f"{theirs} is of {tensor.dtype}, expected {expected[ours].dtype}")
        elif not tensor.isfinite().all():
            found.append(f"{theirs} has values that are not finite")
    known = {*source.values(), *unused}
    return found + [
        f"{key} of shape {tuple(tensor.shape)} has no place here"
        for key, tensor in tensors.items()
        if key not in known
    ]


def _refusal(
    layout: Layout, model: ModelSettings, differences: list[str], problems: list[str]
) -> str:
    lines = [
        f"the network is not ours, nothing was carried over; read as {describe(layout, model)}"
    ]
    lines += [f"  {line}" for line in (*differences, *problems[:_LISTED])]
    if len(problems) > _LISTED:
        lines.append(f"  and {len(problems) - _LISTED} more such keys")
    return "\n".join(lines)
