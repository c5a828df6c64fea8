"""Pictures of stored samples: predictions, annotations, and what training makes of them."""

import torch
from matplotlib.figure import Figure
from torch import nn

from pipeline.data.loader import SampleLoader
from pipeline.data.pictures import overlay, pose_of, spaced
from pipeline.evaluation import predict
from pipeline.settings import Settings


def draw_overlays(
    network: nn.Module,
    loader: SampleLoader,
    settings: Settings,
    device: torch.device,
    title: str,
) -> Figure:
    """Predict people evenly spaced over the samples and draw them on their stored crops.

    The truth is drawn beside, as white rings. Title is the figure's.
    """
    chosen = spaced(len(loader.samples), settings.evaluation.overlays)
    (predictions,) = predict(
        network,
        [loader.batch(chosen)],
        loader,
        settings.optim,
        settings.evaluation,
        device,
    )
    poses = [
        pose_of(loader.samples[position], joints)
        for position, joints in zip(predictions.positions.tolist(), predictions.joints, strict=True)
    ]
    return overlay(poses, loader.joint_set, title)
