"""Rendered people as a batch that never changes, for a task that any machine can set itself."""

import cv2
import numpy as np
import torch

from pipeline.data.batch import Batch
from pipeline.data.synthetic.scene import render_scene
from pipeline.pose.geometry import heatmap_from_input, input_from_original, transform
from pipeline.pose.person import Visibility


def rendered_people(number: int, input_px: int) -> Batch:
    """The first person of each of so many scenes, framed as training frames it, without augmentation."""
    images, joints, annotated = [], [], []
    for index in range(number):
        scene, [person, *_] = render_scene(0, index)
        matrix = input_from_original(person.center, person.scale, input_px)
        images.append(cv2.warpAffine(scene, matrix[:2], (input_px, input_px)))
        joints.append(transform(np.array(person.joints), heatmap_from_input() @ matrix))
        annotated.append([state is not Visibility.MISSING for state in person.visibility])
    return Batch(
        images=torch.from_numpy(np.stack(images)),
        joints=torch.from_numpy(np.stack(joints).astype(np.float32)),
        annotated=torch.tensor(annotated),
        gains=torch.ones(number, 3),
        positions=np.arange(number),
    )
