"""Pictures of stored samples: predictions, annotations, and what training makes of them."""

from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from pipeline.evaluation import predict
from pipeline.figures import Pose, overlay
from pipeline.pose.geometry import heatmap_from_input, transform
from pipeline.pose.person import Visibility
from pipeline.settings import DataSettings, Settings
from pipeline.shards.augmentation import draw_augmentations
from pipeline.shards.batch import Batch
from pipeline.shards.sample import Sample
from pipeline.shards.stream import SampleLoader


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


def spaced(samples: int, count: int) -> np.ndarray:
    """At most `count` positions, evenly spaced over `samples`."""
    return np.unique(np.linspace(0, samples - 1, min(count, samples)).astype(np.int64))


def pose_of(sample: Sample, predicted: np.ndarray) -> Pose:
    """A sample's stored crop with predicted joints (joint, 2) in original-image pixels and the truth."""
    to_crop = sample.crop.from_original
    person = sample.person
    return Pose(
        image=sample.picture(),
        joints=transform(predicted, to_crop),
        shown=np.ones(len(predicted), bool),
        truth=transform(np.array(person.joints), to_crop),
        annotated=np.array(person.visibility) != Visibility.MISSING,
        title=sample.key,
    )


def draw_truth(loader: SampleLoader, positions: np.ndarray, title: str) -> Figure:
    """Draw annotated joints on stored crops; white rings mark the occluded ones."""
    poses = []
    for sample in map(loader.samples.__getitem__, positions.tolist()):
        states = np.array(sample.person.visibility)
        pose = pose_of(sample, np.array(sample.person.joints))
        shown, ringed = states != Visibility.MISSING, states == Visibility.OCCLUDED
        poses.append(replace(pose, shown=shown, annotated=ringed))
    return overlay(poses, loader.joint_set, title)


def draw_augmented(
    loader: SampleLoader,
    settings: DataSettings,
    positions: np.ndarray,
    title: str = "training samples as the network sees them",
) -> Figure:
    """Draw samples as training sees them, joints and all: rotated, scaled, mirrored, coloured."""
    varied = draw_augmentations(settings, 0, positions)
    batch = loader.batch(positions, varied)
    to_input = np.linalg.inv(heatmap_from_input())
    poses = [
        Pose(
            image=_seen(batch, row),
            joints=transform(batch.joints[row].double().numpy(), to_input),
            shown=batch.annotated[row].numpy(),
            title=loader.samples[position].key,
        )
        for row, position in enumerate(batch.positions.tolist())
    ]
    return overlay(poses, loader.joint_set, title)


def _seen(batch: Batch, row: int) -> np.ndarray:
    colored = batch.images[row].float() * batch.gains[row]
    return colored.clamp(0, 255).byte().numpy()
