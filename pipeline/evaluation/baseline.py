"""The constant pose, a baseline that ignores the image."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from pipeline.data.shards.sample import Sample
from pipeline.evaluation.evaluate import Predictions
from pipeline.pose.person import Visibility


def constant_pose(training: Iterable[Sample], joints: int) -> Float[np.ndarray, "joint 2"]:
    """Return the mean position of each joint in training people's frames, in frame sides."""
    total, seen = np.zeros((joints, 2)), np.zeros(joints)
    for sample in training:
        person = sample.person
        annotated = np.array(person.visibility) != Visibility.MISSING
        offsets = (np.array(person.joints) - person.center) / (200 * person.scale)
        total[annotated] += offsets[annotated]
        seen += annotated
    return total / np.maximum(seen, 1)[:, None]


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
