"""Recognition of a file's network: a layout that is converted, or the name of another one."""

from collections.abc import Mapping, Sequence

from pipeline.model.conversion.layout import Layout, Tensors

# Beginnings of keys that each network has all of; the more particular network comes first.
OTHERS: Mapping[str, Sequence[str]] = {
    "this repository's network, which needs no conversion": ("stem_conv.", "stacks.0."),
    "MMPose's hourglass": ("backbone.hourglass_modules.",),
    "a network of MMPose": ("backbone.", "keypoint_head."),
    "HRNet": ("stage2.0.", "final_layer."),
    "HRNet's backbone": ("stage2.0.branches.",),
    "SimpleBaseline, a ResNet with deconvolutions": ("deconv_layers.", "final_layer."),
    "ViTPose": ("backbone.patch_embed.", "backbone.blocks.0."),
    "a vision transformer": ("patch_embed.", "blocks.0."),
    "torchvision's Keypoint R-CNN": ("backbone.body.", "roi_heads."),
    "OpenPose": ("model0.", "model1_1."),
    "a ResNet": ("conv1.", "layer1.0.", "fc."),
    "a network of Ultralytics' YOLO": ("0.conv.", "1.conv.", "2.cv1."),
}
_SHOWN = 4


def layout_of(tensors: Tensors, layouts: Sequence[Layout]) -> Layout:
    """Return the layout that has two of its three signs: stem, hourglass, head.

    Raises ValueError with the keys that were found and expected, and the network that they suggest.
    """
    for layout in layouts:
        if len(_found(layout.signs(), tensors)) >= 2:
            return layout
    shown = [f"{key} {tuple(tensor.shape)}" for key, tensor in list(tensors.items())[:_SHOWN]]
    more = [f"{len(tensors) - _SHOWN} more"] if len(tensors) > _SHOWN else []
    lines = [
        "not a stacked hourglass of a known layout, nothing was converted: "
        f"the keys are {', '.join(shown + more)}"
    ]
    for name, signs in OTHERS.items():
        if len(_found(signs, tensors)) == len(signs):
            lines.append(f"looks like {name}: it has keys {_listed(signs)}")
            break
    nearest_first = sorted(layouts, key=lambda layout: -len(_found(layout.signs(), tensors)))
    for layout in nearest_first:
        found = _found(layout.signs(), tensors)
        missing = [sign for sign in layout.signs() if sign not in found]
        known = f"found {_listed(found)}, " if found else ""
        lines.append(f"expected for {layout.name}: {known}missing {_listed(missing)}")
    raise ValueError("\n  ".join(lines))


def _found(signs: Sequence[str], tensors: Tensors) -> list[str]:
    return [sign for sign in signs if any(key.startswith(sign) for key in tensors)]


def _listed(signs: Sequence[str]) -> str:
    return ", ".join(sign + "*" * sign.endswith(".") for sign in signs)
