"""Pictures of stored samples: predictions, annotations, and what training makes of them."""

from dataclasses import replace

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from pipeline.data.augmentation import Augmentation
from pipeline.data.loader import SampleLoader
from pipeline.data.pictures import overlay, pose_of, spaced, stack_maps
from pipeline.evaluation.evaluate import predict, stack_heatmaps
from pipeline.evaluation.per_person import PersonResults
from pipeline.pose.geometry import transform
from pipeline.pose.joint_sets import JointSet, Measure
from pipeline.pose.person import Visibility
from pipeline.settings import Settings

_WORST = 24
# Joints whose heatmaps are shown where the joint set has no groups to choose from.
_JOINTS = 7


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


def draw_close_ups(
    network: nn.Module,
    loader: SampleLoader,
    settings: Settings,
    cases: PersonResults,
    measure: Measure,
    device: torch.device,
) -> dict[str, Figure]:
    """Both pictures by name of the file; the heatmaps are of the first person of the cases, the same in every run on these data."""
    title = f"{loader.joint_set.name} validation, highest mean errors of {measure.title}"
    first = int(cases.positions.min())
    return {
        "worst.png": draw_worst(loader, cases, measure, title),
        "stacks.png": draw_stacks(network, loader, settings, first, device),
    }


def draw_worst(loader: SampleLoader, cases: PersonResults, measure: Measure, title: str) -> Figure:
    """Draw the people with the highest mean error by `measure`, the worst first.

    On their stored crops, with the error in each title and the truth as white
    rings. The cases are those of the loader's samples.
    """
    means = cases.mean_errors(loader.joint_set, measure)
    # Those without an error, NaN, come last.
    worst = np.argsort(-means, kind="stable")[:_WORST]
    poses = []
    for row in worst.tolist():
        sample = loader.samples[int(cases.positions[row])]
        pose = pose_of(sample, cases.joints[row].astype(np.float64))
        poses.append(replace(pose, title=f"{sample.key}  {means[row]:.2f}"))
    return overlay(poses, loader.joint_set, title)


def draw_stacks(
    network: nn.Module,
    loader: SampleLoader,
    settings: Settings,
    position: int,
    device: torch.device,
) -> Figure:
    """Draw every stack's heatmaps of the sample at `position` over what the network is shown of it."""
    [(batch, stacks, _)] = stack_heatmaps(
        network,
        [loader.batch(np.array([position]))],
        loader,
        settings.optim,
        settings.evaluation,
        device,
    )
    sample, shown = loader.samples[position], list(_shown(loader.joint_set))
    truth = transform(
        np.array(sample.person.joints), loader.input_from_original(sample, Augmentation())
    )
    annotated = np.array(sample.person.visibility) != Visibility.MISSING
    return stack_maps(
        batch.images[0].numpy(),
        stacks[:, 0, shown].cpu().numpy(),
        [loader.joint_set.joints[joint] for joint in shown],
        truth[shown],
        annotated[shown],
        f"heatmaps of {sample.key}",
    )


def _shown(joint_set: JointSet) -> list[int]:
    """A joint of every group, or some evenly spaced ones."""
    groups = [members[0] for _, members in joint_set.groups]
    return groups or spaced(len(joint_set.joints), _JOINTS).tolist()
