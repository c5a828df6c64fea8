"""Average precision by object keypoint similarity (OKS), COCO's measure (Lin et al., ECCV 2014).

A detection is matched with at most one annotated person of its image and category, detections of
higher scores first. Precision is averaged over 101 recalls and ten OKS from 0.50 to 0.95. The
rules are those of COCO's evaluation (cocodataset.org/#keypoints-eval), to the last detail: people
who are crowds, have no labelled joint, or an area outside the range are ignored, and so is a
detection that is matched with one of them, or that is unmatched and out of the range.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from pipeline.data.formats.coco_truth import AnnotatedPeople, DetectedPeople
from pipeline.evaluation.metrics import AveragePrecision
from pipeline.evaluation.per_person import PersonResults, image_of
from pipeline.pose.joint_sets import JointSet

SIMILARITIES = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
# Square pixels, by name; the ends belong to a range.
AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_MOST_DETECTIONS = 20


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Detections by falling score, with what they were matched with; independent of the scores.

    `correct` and `ignored` are by area range and similarity. `people` counts those that should be
    found, by area range, in each of `groups`, the pairs of image and category; `group` is a
    detection's row there.
    """

    groups: Int64[np.ndarray, "group 2"]
    people: Int64[np.ndarray, "area group"]
    group: Int64[np.ndarray, " detection"]
    correct: Bool[np.ndarray, "area similarity detection"]
    ignored: Bool[np.ndarray, "area similarity detection"]


def similarity(
    detected: Float[np.ndarray, "detection joint 2"],
    truth: AnnotatedPeople,
    sigmas: Float[np.ndarray, " joint"],
) -> Float[np.ndarray, "detection person"]:
    """Return each detection's similarity to each person, from 0 to 1.

    It is the mean of exp(-d^2 / (2 area (2 sigma)^2)) over the labelled joints. Of a person without
    any, a joint's distance is that to the box three times as large.
    """
    offsets = detected[:, None] - truth.joints[None]
    corner, side = truth.boxes[:, None, :2], truth.boxes[:, None, 2:]
    outside = np.maximum(0, corner - side - detected[:, None]) + np.maximum(
        0, detected[:, None] - (corner + 2 * side)
    )
    labelled = _labelled(truth)
    offsets = np.where(labelled[None, :, None, None], offsets, outside)
    # The order of the operations is that of COCO's code: a similarity exactly at a limit counts.
    error = (offsets**2).sum(axis=-1) / (2 * sigmas) ** 2
    error = error / (truth.areas[None, :, None] + np.spacing(1)) / 2
    counts = truth.annotated | ~labelled[:, None]
    return np.where(counts[None], np.exp(-error), 0).sum(axis=-1) / counts.sum(axis=1)


def match(
    truth: AnnotatedPeople, detected: DetectedPeople, sigmas: Float[np.ndarray, " joint"]
) -> Matches:
    """Match detections with people, image by image and category by category.

    Of an image's detections in a category the twenty best are kept.
    """
    pairs = np.concatenate(
        [np.stack([part.images, part.categories], axis=1) for part in (truth, detected)]
    )
    groups, group = np.unique(pairs, axis=0, return_inverse=True)
    of_truth, of_detected = group[: len(truth.images)], group[len(truth.images) :]
    # By group, and within one by falling score, as stable as COCO's own sort.
    order = np.lexsort([-detected.scores, of_detected])
    starts = np.searchsorted(of_detected[order], of_detected[order])
    order = order[np.arange(len(order)) - starts < _MOST_DETECTIONS]
    kept, by_group = of_detected[order], np.argsort(of_truth, kind="stable")
    shape = len(AREAS), len(SIMILARITIES), len(order)
    correct, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    people = np.zeros((len(AREAS), len(groups)), np.int64)
    ends = np.arange(len(groups) + 1)
    detections, rows = np.searchsorted(kept, ends), np.searchsorted(of_truth[by_group], ends)
    for number in range(len(groups)):
        found = slice(detections[number], detections[number + 1])
        chosen = by_group[rows[number] : rows[number + 1]]
        there = _rows(truth, chosen)
        joints = detected.joints[order[found]]
        similar = similarity(joints, there, sigmas)
        extents = np.prod(joints.max(axis=1) - joints.min(axis=1), axis=-1)
        for at, (low, high) in enumerate(AREAS.values()):
            is_out = (there.areas < low) | (there.areas > high)
            passed_over = there.crowd | ~_labelled(there) | is_out
            people[at, number] = (~passed_over).sum()
            hit, free = _greedy(similar, passed_over, there.crowd)
            correct[at, :, found] = hit
            out_of_range = (extents < low) | (extents > high)
            ignored[at, :, found] = free | (~hit & out_of_range)
    ranked = np.argsort(-detected.scores[order], kind="stable")
    return Matches(
        groups=groups,
        people=people,
        group=kept[ranked],
        correct=correct[..., ranked],
        ignored=ignored[..., ranked],
    )


def average_precision(
    matches: Matches, weights: Int64[np.ndarray, " group"] | None = None
) -> AveragePrecision:
    """Compute COCO's ten numbers; `weights` is how often each group counts, by default once."""
    if weights is None:
        weights = np.ones(len(matches.groups), np.int64)
    return AveragePrecision.of(*_precision_recall(matches, weights))


def resampled_precision(
    matches: Matches, weights: Int64[np.ndarray, "resample group"]
) -> Float[np.ndarray, " resample"]:
    """Return the average precision over people of all sizes of each resample of the groups."""
    of_all = Matches(
        groups=matches.groups,
        people=matches.people[:1],
        group=matches.group,
        correct=matches.correct[:1],
        ignored=matches.ignored[:1],
    )
    with np.errstate(invalid="ignore"):
        return np.array([100 * _precision_recall(of_all, row)[0].mean() for row in weights])


def _precision_recall(
    matches: Matches, weights: Int64[np.ndarray, " group"]
) -> tuple[
    Float[np.ndarray, "category area similarity"], Float[np.ndarray, "category area similarity"]
]:
    """Return mean precision and greatest recall; NaN without annotated people."""
    categories = np.unique(matches.groups[:, 1])
    shape = len(categories), len(matches.people), len(SIMILARITIES)
    precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
    for number, category in enumerate(categories):
        inside = matches.groups[:, 1] == category
        people = (matches.people * weights)[:, inside].sum(axis=1)
        chosen = inside[matches.group]
        times = weights[matches.group[chosen]]
        counted = ~matches.ignored[..., chosen]
        right = np.cumsum(times * (matches.correct[..., chosen] & counted), axis=-1)
        total = np.cumsum(times * counted, axis=-1)
        exact = right / (total + np.spacing(1))
        # The best precision at this recall or a higher one.
        exact = np.maximum.accumulate(exact[..., ::-1], axis=-1)[..., ::-1]
        exact = np.concatenate([exact, np.zeros((*shape[1:], 1))], axis=-1)
        for area in np.flatnonzero(people):
            reached = right[area] / people[area]
            for at, row in enumerate(reached):
                places = np.searchsorted(row, _RECALLS)
                precision[number, area, at] = exact[area, at, places].mean()
            recall[number, area] = reached[:, -1] if reached.shape[1] else 0
    return precision, recall


def precision_of(results: PersonResults, joint_set: JointSet) -> AveragePrecision | None:
    """Compute the ten numbers of people who were each predicted in their own frame.

    None where `matches_of` is.
    """
    matches = matches_of(results, joint_set)
    return None if matches is None else average_precision(matches)


def with_areas(results: PersonResults) -> PersonResults:
    """Return the people whose areas are known; all where nothing is known of instances."""
    if results.instances is None:
        return results
    known = ~np.isnan(results.instances.areas)
    return results if known.all() else results.rows(np.flatnonzero(known))


def matches_of(results: PersonResults, joint_set: JointSet) -> Matches | None:
    """Match people who were each predicted in their own frame; groups are images by name.

    People with neither area nor box are left out; None if none is left, or the joint set has no
    sigmas. A person's image is the key without the person's number.
    """
    results = with_areas(results)
    instances = results.instances
    if instances is None or not joint_set.sigmas or not len(results):
        return None
    names = [image_of(key) for key in results.keys]
    images = np.unique(names, return_inverse=True)[1]
    one = np.zeros(len(results), np.int64)
    truth = AnnotatedPeople(
        images=images,
        categories=one,
        joints=instances.truth.astype(np.float64),
        annotated=instances.annotated,
        # A box is only asked for where no joint is labelled.
        boxes=np.nan_to_num(instances.boxes.astype(np.float64)),
        areas=instances.areas.astype(np.float64),
        crowd=one.astype(bool),
    )
    detected = DetectedPeople(
        images=images,
        categories=one,
        joints=results.joints.astype(np.float64),
        scores=instances.scores.astype(np.float64),
    )
    return match(truth, detected, np.array(joint_set.sigmas))


def precision_table(found: AveragePrecision) -> str:
    """Return COCO's ten numbers as text."""
    heads = ("all", "OKS 0.50", "OKS 0.75", "medium", "large")
    lines = [f"{'':<18}" + "".join(f"{head:>10}" for head in heads)]
    for title, name in (("average precision", "ap"), ("average recall", "ar")):
        values = (getattr(found, name + suffix) for suffix in ("", "_50", "_75", "_m", "_l"))
        cells = ("-" if np.isnan(value) else f"{value:.2f}" for value in values)
        lines.append(f"{title:<18}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def _labelled(people: AnnotatedPeople) -> Bool[np.ndarray, " person"]:
    return np.asarray(people.annotated.any(axis=1))


def _rows(people: AnnotatedPeople, chosen: Int64[np.ndarray, " row"]) -> AnnotatedPeople:
    return AnnotatedPeople(**{name: values[chosen] for name, values in vars(people).items()})


def _greedy(
    similar: Float[np.ndarray, "detection person"],
    passed_over: Bool[np.ndarray, " person"],
    crowd: Bool[np.ndarray, " person"],
) -> tuple[
    Bool[np.ndarray, "similarity detection"],
    Bool[np.ndarray, "similarity detection"],
]:
    """Return which detections are matched, and which of them with somebody who is ignored.

    Each takes the most similar person who is left (the later of equals), and one who is ignored
    only where there is no other.
    """
    shape = len(SIMILARITIES), len(similar)
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    if not similar.shape[1]:
        return matched, ignored
    limits, rows = np.minimum(SIMILARITIES, 1 - 1e-10)[:, None], np.arange(len(SIMILARITIES))
    taken = np.zeros((len(SIMILARITIES), similar.shape[1]), bool)
    last = similar.shape[1] - 1
    for at, row in enumerate(similar):
        possible = (row >= limits) & (~taken | crowd)
        # Those who count come before those who are ignored: similarities are at most 1.
        rank = np.where(possible, row + 2 * ~passed_over, -1)
        best = last - np.argmax(rank[:, ::-1], axis=1)
        hit = possible[rows, best]
        matched[:, at], ignored[:, at] = hit, hit & passed_over[best]
        taken[rows, best] |= hit
    return matched, ignored
