"""Pictures of stored samples: predictions, annotations, heatmaps."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from pipeline.data.augmentation import Augmentation
from pipeline.data.loader import SampleLoader
from pipeline.data.pictures import overlay, pose_of, spaced, stack_maps
from pipeline.evaluation.evaluate import Evaluator
from pipeline.evaluation.per_person import PersonResults
from pipeline.pose.geometry import transform
from pipeline.pose.joint_sets import Measure
from pipeline.pose.person import Visibility

_WORST = 24
# Joints whose heatmaps are shown where the joint set has no groups to choose from.
_JOINTS = 7


def draw_overlays(evaluator: Evaluator, title: str) -> Figure:
    """Draw predictions, with the truth as white rings, on stored crops spaced over the samples."""
    loader = evaluator.loader
    chosen = spaced(len(loader.samples), evaluator.settings.evaluation.overlays)
    (predictions,) = evaluator.predict([loader.batch(chosen)])
    poses = [
        pose_of(loader.samples[position], joints)
        for position, joints in zip(predictions.positions.tolist(), predictions.joints, strict=True)
    ]
    return overlay(poses, loader.joint_set, title)


def draw_close_ups(
    evaluator: Evaluator, results: PersonResults, measure: Measure
) -> dict[str, Figure]:
    """Draw the worst people, and the heatmaps of the first, who is the same in every run."""
    name = evaluator.loader.joint_set.name
    title = f"{name} validation, highest mean errors of {measure.title}"
    return {
        "worst.png": draw_worst(evaluator.loader, results, measure, title),
        "stacks.png": draw_stacks(evaluator, int(results.positions.min())),
    }


def draw_worst(
    loader: SampleLoader, results: PersonResults, measure: Measure, title: str
) -> Figure:
    """Draw the people with the highest mean error by `measure` on their stored crops, worst first.

    Titles have the error, and white rings are the truth. The results are of the loader's samples.
    """
    means = results.mean_errors(loader.joint_set, measure)
    # NaN, for people without an error, comes last.
    worst = np.argsort(-means, kind="stable")[:_WORST]
    poses = []
    for row in worst.tolist():
        sample = loader.samples[int(results.positions[row])]
        pose = pose_of(sample, results.joints[row].astype(np.float64))
        poses.append(replace(pose, title=f"{sample.key}  {means[row]:.2f}"))
    return overlay(poses, loader.joint_set, title)


def draw_stacks(evaluator: Evaluator, position: int) -> Figure:
    """Draw every stack's heatmaps of the sample at `position` over the network's input."""
    loader = evaluator.loader
    [(batch, stacks, _)] = evaluator.heatmaps([loader.batch(np.array([position]))])
    # A joint of every group, or evenly spaced ones.
    shown = [members[0] for _, members in loader.joint_set.groups]
    shown = shown or spaced(len(loader.joint_set.joints), _JOINTS).tolist()
    sample = loader.samples[position]
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
