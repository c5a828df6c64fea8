"""Evaluation of a network: predictions in original-image pixels, each person counted once."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from pipeline.data.augmentation import Augmentation
from pipeline.data.batch import Batch, network_input
from pipeline.data.formats.coco_truth import AREA_OF_BOX
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.sample import Sample
from pipeline.evaluation.metrics import (
    THRESHOLDS,
    AveragePrecision,
    JointCounts,
    Scores,
    dissimilarity,
    joint_counts,
    normalised_errors,
    person_sizes,
    scores,
)
from pipeline.evaluation.per_person import Instances, PersonResults
from pipeline.io.inside import read_whole
from pipeline.io.parsing import fields_of, parse_json, table_of, whole_of
from pipeline.model.arithmetic import arithmetic, fp32_of
from pipeline.model.decoding import decode, predicted_heatmaps
from pipeline.model.loss import batch_loss, is_flat
from pipeline.model.network import Heatmaps
from pipeline.pose.geometry import Matrix, heatmap_from_input, transform
from pipeline.pose.joint_sets import JointSet
from pipeline.pose.person import Visibility
from pipeline.pose.shapes import Positions
from pipeline.settings import Settings

EVALUATION_NAME = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Joints of samples in pixels of their original images, and the heatmaps' maxima.

    `loss` is the sum of the samples' validation losses, `flat` the number of samples whose
    heatmaps are too flat to locate joints (see `is_flat`).
    """

    positions: Positions
    joints: Float[np.ndarray, "person joint 2"]
    confidence: Float[np.ndarray, "person joint"]
    loss: float
    flat: int = 0


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """A network on `device`, with the samples that it is evaluated on and its settings."""

    network: nn.Module
    loader: SampleLoader
    settings: Settings
    device: torch.device

    def predict(self, batches: Iterable[Batch]) -> Iterator[Predictions]:
        """Yield the last stack's predictions for each batch, computed in float32.

        On a GPU `evaluation.precision` is the arithmetic. With `evaluation.flip_test` heatmaps are
        averaged with those of the mirrored images. The network is in evaluation mode meanwhile, and
        returns to its mode afterwards.
        """
        for [found] in self.predict_stacks(batches, every=False):
            yield found

    def predict_stacks(
        self, batches: Iterable[Batch], *, every: bool = True
    ) -> Iterator[list[Predictions]]:
        """Yield predictions as `predict`: of every stack, first to last, or of the last alone.

        The loss is that of the stacks up to each.
        """
        for batch, stacks, predicted in self.heatmaps(batches):
            to_original = self._to_original(batch.positions)
            yield [
                self._decode(
                    batch, stacks[count - 1], self._loss(batch, predicted.first(count)), to_original
                )
                for count in range(1 if every else len(stacks), len(stacks) + 1)
            ]

    def heatmaps(
        self, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, Float[Tensor, "stack batch joint height width"], Heatmaps]]:
        """Yield each batch with every stack's heatmaps, and the network's output, on the device."""
        optim, fp32 = self.settings.optim, fp32_of(self.settings.evaluation.precision)
        mirror = self.loader.joint_set.mirror if self.settings.evaluation.flip_test else None
        was_training = self.network.training
        self.network.eval()
        try:
            with torch.inference_mode(), arithmetic(fp32):
                for batch in batches:
                    images = network_input(batch, self.device)
                    predicted: Heatmaps = self.network(images)
                    maps = predicted_heatmaps(self.network, images, predicted, optim.loss, mirror)
                    yield batch, maps, predicted
        finally:
            self.network.train(was_training)

    def _loss(self, batch: Batch, predicted: Heatmaps) -> Float[Tensor, ""]:
        return batch_loss(predicted, batch.joints, batch.annotated, self.settings.optim)

    def _decode(
        self,
        batch: Batch,
        heatmaps: Float[Tensor, "batch joint height width"],
        loss: Float[Tensor, ""],
        to_original: Sequence[Matrix],
    ) -> Predictions:
        optim, pixels = self.settings.optim, heatmaps.shape[-2] * heatmaps.shape[-1]
        with arithmetic("ieee"):
            joints, heights = decode(heatmaps, self.settings.evaluation.decoding, optim.sigma_px)
        flat = is_flat(heights, optim.loss, optim.target_peak, pixels).sum()
        # One copy from the device, which the host waits for.
        parts = joints.ravel(), heights.ravel(), loss.reshape(1), flat.float().reshape(1)
        row = torch.cat(parts).cpu().numpy()
        points, confidence = np.split(row[:-2], [joints.numel()])
        people = points.reshape(joints.shape).astype(np.float64)
        for person, matrix in enumerate(to_original):
            people[person] = transform(people[person], matrix)
        return Predictions(
            positions=batch.positions,
            joints=people,
            confidence=confidence.reshape(heights.shape),
            loss=float(row[-2]) * len(batch),
            flat=int(row[-1]),
        )

    def _to_original(self, positions: Positions) -> list[Matrix]:
        """Return the matrix from heatmap to original pixels for each person."""
        samples = (self.loader.samples[position] for position in positions.tolist())
        views = (self.loader.input_from_original(sample, Augmentation()) for sample in samples)
        return [np.linalg.inv(heatmap_from_input() @ view) for view in views]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Counts by measure over `people`, of whom `flat` have flat heatmaps; added over batches."""

    counts: dict[str, JointCounts]
    loss_sum: float
    people: int
    flat: int = 0

    @classmethod
    def nothing(cls, joint_set: JointSet) -> Self:
        zero = JointCounts.zero(len(joint_set.joints))
        counts = {measure.key: zero for measure in joint_set.all_measures}
        return cls(counts=counts, loss_sum=0.0, people=0)

    def __add__(self, other: "Evaluation") -> "Evaluation":
        return Evaluation(
            counts={key: self.counts[key] + other.counts[key] for key in self.counts},
            loss_sum=self.loss_sum + other.loss_sum,
            people=self.people + other.people,
            flat=self.flat + other.flat,
        )

    def to_json(self) -> dict[str, Any]:
        counts = {
            key: {"correct": c.correct.tolist(), "annotated": c.annotated.tolist()}
            for key, c in self.counts.items()
        }
        return vars(self) | {"counts": counts}

    @classmethod
    def read(cls, path: Path, joint_set: JointSet) -> Self:
        """Read the JSON of an evaluation of `joint_set`. Raises ValueError naming file and field.

        Measures that the joint set does not have are left out, and a checkpoint of before may lack
        one.
        """
        try:
            content = parse_json(read_whole(path), str(path))
        except OSError as error:
            raise ValueError(f"{path}: not readable: {error.strerror}") from None
        try:
            return cls._from_json(content, joint_set)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def _from_json(cls, content: Any, joint_set: JointSet) -> Self:
        names = ("counts", "loss_sum", "people")
        given = fields_of(content, "evaluation", required=names, optional=("flat",))
        people = whole_of(given["people"], "people")
        counts = table_of(given["counts"], "counts", lambda value, _: value)
        required = [measure.key for measure in joint_set.measures]
        fields_of(counts, "counts", required=required, optional=counts)
        keys = [measure.key for measure in joint_set.all_measures if measure.key in counts]
        loss = given["loss_sum"]
        # Of a network that diverged it is NaN.
        if not isinstance(loss, float):
            raise ValueError(f"loss_sum must be a number with a point, got {loss!r:.80}")
        joints = len(joint_set.joints)
        return cls(
            counts={key: _counts(counts[key], f"counts.{key}", people, joints) for key in keys},
            loss_sum=loss,
            people=people,
            flat=whole_of(given.get("flat", 0), "flat", most=people),
        )

    def scores(
        self, joint_set: JointSet, precision: AveragePrecision | None = None
    ) -> dict[str, Scores]:
        """Return percentages by measure, for measures with at least one annotated joint.

        `precision` is that of the same people by OKS, where it is known. A checkpoint of before may
        lack a measure.
        """
        return {
            measure.key: scores(self.counts[measure.key], joint_set, measure, precision)
            for measure in joint_set.all_measures
            if measure.key in self.counts and self.counts[measure.key].annotated.any()
        }


def _counts(value: Any, where: str, people: int, joints: int) -> JointCounts:
    """Read the counts of one measure: of each joint no more than there are people."""
    given = fields_of(value, where, required=("correct", "annotated"))
    annotated = _whole_numbers(given["annotated"], f"{where}.annotated", (joints,))
    correct = _whole_numbers(given["correct"], f"{where}.correct", (len(THRESHOLDS), joints))
    rising = np.concatenate([np.zeros_like(correct[:1]), correct, annotated[None]])
    if (np.diff(rising, axis=0) < 0).any() or (annotated > people).any():
        raise ValueError(
            f"{where} must rise from 0 with the threshold, to at most the annotated joints, and "
            f"these to at most {people} people"
        )
    return JointCounts(correct=correct, annotated=annotated)


def _whole_numbers(value: Any, where: str, shape: tuple[int, ...]) -> Int64[np.ndarray, "..."]:
    try:
        found = np.array(value)
    except ValueError:
        found = np.empty(0)
    if found.shape != shape or found.dtype != np.int64:
        raise ValueError(f"{where} must be whole numbers of shape {shape}, got {value!r:.80}")
    return found


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Annotations of people in original-image pixels; a size that is not annotated is NaN.

    An area that is not annotated is a share of the box's.
    """

    joints: Float[np.ndarray, "person joint 2"]
    annotated: Bool[np.ndarray, "person joint"]
    head_size: Float[np.ndarray, " person"]
    box_size: Float[np.ndarray, " person"]
    boxes: Float[np.ndarray, "person 4"]
    areas: Float[np.ndarray, " person"]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Self:
        people = [sample.person for sample in samples]
        nowhere = (np.nan,) * 4
        boxes = np.array([person.box or nowhere for person in people], np.float64).reshape(-1, 4)
        areas = np.array([person.area or np.nan for person in people], np.float64)
        sides = boxes[:, 2:].max(axis=1)
        of_box = AREA_OF_BOX * boxes[:, 2] * boxes[:, 3]
        return cls(
            joints=np.array([person.joints for person in people]),
            annotated=np.array([person.visibility for person in people]) != Visibility.MISSING,
            head_size=np.array([person.head_size or np.nan for person in people], np.float64),
            box_size=np.where(sides > 0, sides, np.nan),
            boxes=boxes,
            areas=np.where(np.isnan(areas), np.where(of_box > 0, of_box, np.nan), areas),
        )

    def checksums(self) -> Int64[np.ndarray, " person"]:
        """Return a checksum of each person's annotations, independent of where they are stored."""
        joints = np.where(self.annotated[..., None], self.joints, 0)
        sizes = np.stack([self.head_size, self.box_size], axis=1)
        rows = zip(joints, self.annotated, sizes, strict=True)
        return np.array(
            [zlib.crc32(b"".join(part.tobytes() for part in row)) for row in rows], np.int64
        )

    def instances(self, confidence: Float[np.ndarray, "person joint"]) -> Instances:
        """Return what average precision needs; a person's score is the joints' mean confidence."""
        return Instances(
            truth=np.where(self.annotated[..., None], self.joints, 0).astype(np.float32),
            annotated=self.annotated,
            boxes=self.boxes.astype(np.float32),
            areas=self.areas.astype(np.float32),
            scores=confidence.mean(axis=1).astype(np.float32),
        )

    def errors(
        self, predicted: Float[np.ndarray, "person joint 2"], joint_set: JointSet
    ) -> dict[str, Float[np.ndarray, "person joint"]]:
        """Return normalised errors by measure; NaN where a joint does not count."""
        known, sizes = (self.joints, self.annotated), (self.head_size, self.box_size, self.areas)
        found = {}
        for measure in joint_set.all_measures:
            errors = normalised_errors(predicted, *known, person_sizes(measure, *known, *sizes))
            found[measure.key] = (
                dissimilarity(errors, joint_set.sigmas) if measure.is_similarity else errors
            )
        return found


def evaluate_stacks(
    predictions: Iterable[Sequence[Predictions]], loader: SampleLoader, stacks: int
) -> list[tuple[Evaluation, PersonResults]]:
    """Evaluate the predictions of each of the `stacks`, which come together for each batch.

    Count them against the truth of their samples; also return each person's results.
    """
    totals = [Evaluation.nothing(loader.joint_set)] * stacks
    results = [[PersonResults.nobody(loader.joint_set)] for _ in range(stacks)]
    for batch in predictions:
        for at, (evaluation, people) in enumerate(_evaluate_batch(batch, loader)):
            totals[at] += evaluation
            results[at].append(people)
    return list(zip(totals, map(PersonResults.together, results), strict=True))


def evaluate_people(
    predictions: Iterable[Predictions], loader: SampleLoader
) -> tuple[Evaluation, PersonResults]:
    """Evaluate predictions as `evaluate_stacks`, of one stack."""
    [found] = evaluate_stacks(([batch] for batch in predictions), loader, 1)
    return found


def _evaluate_batch(
    stacks: Sequence[Predictions], loader: SampleLoader
) -> Iterator[tuple[Evaluation, PersonResults]]:
    """Evaluate each stack's predictions for a batch, whose truth is read once."""
    joint_set, positions = loader.joint_set, stacks[0].positions
    people = [loader.samples[position] for position in positions.tolist()]
    truth, keys = Truth.of(people), [sample.key for sample in people]
    checksums = truth.checksums()
    for found in stacks:
        errors = truth.errors(found.joints, joint_set)
        instances = truth.instances(found.confidence) if joint_set.sigmas else None
        evaluation = Evaluation(
            counts={key: joint_counts(value) for key, value in errors.items()},
            loss_sum=found.loss,
            people=len(people),
            flat=found.flat,
        )
        yield (
            evaluation,
            PersonResults.of(keys, positions, checksums, found.joints, errors, instances),
        )
