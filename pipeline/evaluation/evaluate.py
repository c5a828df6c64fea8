"""Evaluation: predictions in original-image pixels, counted once each."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from pipeline.data.augmentation import Augmentation
from pipeline.data.batch import Batch, network_input
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.sample import Sample
from pipeline.evaluation.metrics import (
    JointCounts,
    Scores,
    joint_counts,
    normalised_errors,
    person_sizes,
    scores,
)
from pipeline.evaluation.per_person import PersonResults
from pipeline.model.decoding import decode, predicted_heatmaps
from pipeline.model.loss import batch_loss, is_flat
from pipeline.model.network import Heatmaps
from pipeline.pose.geometry import heatmap_from_input, transform
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.person import Visibility
from pipeline.pose.shapes import Positions
from pipeline.settings import EvaluationSettings, OptimSettings

EVALUATION_NAME = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Joints of some samples in pixels of their original images, and the heatmaps' heights there.

    `loss` is the sum of the samples' validation losses, `flat` the number of
    samples whose heatmaps are all flat (see `is_flat`).
    """

    positions: Positions
    joints: Float[np.ndarray, "person joint 2"]
    confidence: Float[np.ndarray, "person joint"]
    loss: float
    flat: int = 0


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Counts of each measure (by its key) over some people; add them over batches and workers.

    `flat` are the people for whom all heatmaps were flat.
    """

    counts: dict[str, JointCounts]
    loss_sum: float
    people: int
    flat: int = 0

    @classmethod
    def nothing(cls, joint_set: JointSet) -> Self:
        """The evaluation of nobody, to add to."""
        zero = JointCounts.zero(len(joint_set.joints))
        return cls(
            counts={measure.key: zero for measure in joint_set.measures},
            loss_sum=0.0,
            people=0,
        )

    def __add__(self, other: "Evaluation") -> "Evaluation":
        return Evaluation(
            counts={key: self.counts[key] + other.counts[key] for key in self.counts},
            loss_sum=self.loss_sum + other.loss_sum,
            people=self.people + other.people,
            flat=self.flat + other.flat,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` makes the same evaluation."""
        counts = {
            key: {"correct": c.correct.tolist(), "annotated": c.annotated.tolist()}
            for key, c in self.counts.items()
        }
        return {
            "counts": counts,
            "loss_sum": self.loss_sum,
            "people": self.people,
            "flat": self.flat,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Rebuild an evaluation from `to_json`'s data."""
        counts = {
            key: JointCounts(
                correct=np.array(c["correct"], np.int64),
                annotated=np.array(c["annotated"], np.int64),
            )
            for key, c in content["counts"].items()
        }
        return cls(
            counts=counts,
            loss_sum=content["loss_sum"],
            people=content["people"],
            # Not counted by those that were written before.
            flat=content.get("flat", 0),
        )

    def scores(self, joint_set: JointSet) -> dict[str, Scores]:
        """Percentages of every measure that has at least one annotated joint."""
        return {
            measure.key: scores(self.counts[measure.key], joint_set, measure)
            for measure in joint_set.measures
            if self.counts[measure.key].annotated.any()
        }


def predict(
    network: nn.Module,
    batches: Iterable[Batch],
    loader: SampleLoader,
    optim: OptimSettings,
    evaluation: EvaluationSettings,
    device: torch.device,
) -> Iterator[Predictions]:
    """Yield the last stack's predictions batch by batch, computed in float32.

    With `evaluation.flip_test` the heatmaps are averaged with the mirrored
    image's. The network is put in evaluation mode and left in the mode it came in.
    """
    for batch, stacks, loss in stack_heatmaps(network, batches, loader, optim, evaluation, device):
        yield _predictions(batch, stacks[-1], loss, loader, optim, evaluation)


def predict_stacks(
    network: nn.Module,
    batches: Iterable[Batch],
    loader: SampleLoader,
    optim: OptimSettings,
    evaluation: EvaluationSettings,
    device: torch.device,
) -> Iterator[list[Predictions]]:
    """Yield every stack's predictions, first to last, as `predict` yields the last one's.

    The loss of each is that of the whole network.
    """
    for batch, stacks, loss in stack_heatmaps(network, batches, loader, optim, evaluation, device):
        yield [_predictions(batch, maps, loss, loader, optim, evaluation) for maps in stacks]


def stack_heatmaps(
    network: nn.Module,
    batches: Iterable[Batch],
    loader: SampleLoader,
    optim: OptimSettings,
    evaluation: EvaluationSettings,
    device: torch.device,
) -> Iterator[tuple[Batch, Float[Tensor, "stack batch joint height width"], float]]:
    """Yield batches with every stack's heatmaps and the sum of their samples' losses; else like `predict`."""
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                images = network_input(batch, device)
                predicted: Heatmaps = network(images)
                loss = float(batch_loss(predicted, batch.joints, batch.annotated, optim)) * len(
                    batch
                )
                mirror = loader.joint_set.mirror if evaluation.flip_test else None
                yield (
                    batch,
                    predicted_heatmaps(network, images, predicted, optim.loss, mirror),
                    loss,
                )
    finally:
        network.train(was_training)


def _predictions(
    batch: Batch,
    heatmaps: Float[Tensor, "batch joint height width"],
    loss: float,
    loader: SampleLoader,
    optim: OptimSettings,
    evaluation: EvaluationSettings,
) -> Predictions:
    joints, confidence = decode(heatmaps, evaluation.decoding, optim.sigma_px)
    pixels = heatmaps.shape[-2] * heatmaps.shape[-1]
    flat = is_flat(confidence, optim.loss, optim.target_peak, pixels)
    return Predictions(
        positions=batch.positions,
        joints=_to_original(joints, batch.positions, loader),
        confidence=confidence.cpu().numpy(),
        loss=loss,
        flat=int(flat.sum()),
    )


def _to_original(
    joints: Float[Tensor, "batch joint 2"], positions: Positions, loader: SampleLoader
) -> Float[np.ndarray, "batch joint 2"]:
    points = joints.double().cpu().numpy()
    for row, position in enumerate(positions.tolist()):
        matrix = heatmap_from_input() @ loader.input_from_original(
            loader.samples[position], Augmentation()
        )
        points[row] = transform(points[row], np.linalg.inv(matrix))
    return points


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What the annotations say of some people, in original-image pixels; NaN where there is no size."""

    joints: Float[np.ndarray, "person joint 2"]
    annotated: Bool[np.ndarray, "person joint"]
    head_size: Float[np.ndarray, " person"]
    box_size: Float[np.ndarray, " person"]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Self:
        """Collect the truth of samples."""
        people = [sample.person for sample in samples]
        return cls(
            joints=np.array([person.joints for person in people]),
            annotated=np.array([person.visibility for person in people]) != Visibility.MISSING,
            head_size=np.array([person.head_size or np.nan for person in people], np.float64),
            box_size=np.array(
                [max(person.box[2:]) if person.box else np.nan for person in people],
                np.float64,
            ),
        )

    def checksums(self) -> Int64[np.ndarray, " person"]:
        """A number for each person that stands for all that is known of them, wherever they are stored."""
        joints = np.where(self.annotated[..., None], self.joints, 0)
        sizes = np.stack([self.head_size, self.box_size], axis=1)
        rows = zip(joints, self.annotated, sizes, strict=True)
        return np.array(
            [zlib.crc32(b"".join(part.tobytes() for part in row)) for row in rows], np.int64
        )


def measure_errors(
    predicted: Float[np.ndarray, "person joint 2"], truth: Truth, joint_set: JointSet
) -> dict[str, Float[np.ndarray, "person joint"]]:
    """Normalised errors by measure; NaN where a joint does not count."""
    return {
        measure.key: normalised_errors(
            predicted,
            truth.joints,
            truth.annotated,
            person_sizes(
                measure,
                truth.joints,
                truth.annotated,
                truth.head_size,
                truth.box_size,
            ),
        )
        for measure in joint_set.measures
    }


def evaluate(predictions: Iterable[Predictions], loader: SampleLoader) -> Evaluation:
    """Count predictions against the truth of their samples."""
    evaluation, _ = evaluate_people(predictions, loader)
    return evaluation


def evaluate_people(
    predictions: Iterable[Predictions], loader: SampleLoader
) -> tuple[Evaluation, PersonResults]:
    """Count predictions against the truth of their samples, and say of each person what was counted."""
    joint_set = loader.joint_set
    total, cases = Evaluation.nothing(joint_set), [PersonResults.nobody(joint_set)]
    for batch in predictions:
        people = [loader.samples[position] for position in batch.positions.tolist()]
        truth, keys = Truth.of(people), [sample.key for sample in people]
        errors = measure_errors(batch.joints, truth, joint_set)
        cases.append(
            PersonResults.of(keys, batch.positions, truth.checksums(), batch.joints, errors)
        )
        total += Evaluation(
            counts={key: joint_counts(value) for key, value in errors.items()},
            loss_sum=batch.loss,
            people=len(people),
            flat=batch.flat,
        )
    return total, PersonResults.together(cases)
