"""The constant pose, a baseline that ignores the image."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from pipeline.data.shards.sample import Sample
from pipeline.evaluation.evaluate import Predictions
from pipeline.pose.person import Visibility


def constant_pose(training: Iterable[Sample], joints: int) -> Float[np.ndarray, "joint 2"]:
    """Return the median of each joint's x and y in training people's frames, in frame sides.

    Medians are within a given distance of more people than means are. A joint that nobody has lies
    in the middle.
    """
    offsets = []
    for sample in training:
        person = sample.person
        annotated = np.array(person.visibility) != Visibility.MISSING
        offset = (np.array(person.joints) - person.center) / (200 * person.scale)
        offsets.append(np.where(annotated[:, None], offset, np.nan))
    by_joint = np.reshape(offsets, (-1, joints, 2)).transpose(1, 0, 2)
    known = [positions[~np.isnan(positions[:, 0])] for positions in by_joint]
    return np.array([np.median(p, axis=0) if len(p) else np.zeros(2) for p in known])


def predict_constant_pose(
    pose: Float[np.ndarray, "joint 2"], samples: Iterable[Sample]
) -> Predictions:
    """Place a constant pose in every sample's frame."""
    people = [sample.person for sample in samples]
    return Predictions(
        positions=np.arange(len(people)),
        joints=np.array([np.array(p.center) + 200 * p.scale * pose for p in people]),
        confidence=np.zeros((len(people), len(pose))),
        loss=0.0,
    )
