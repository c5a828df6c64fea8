"""Comparison of runs: differences computed by hand, and the coverage of their intervals."""

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest

from jobs.compare import sentences, table
from pipeline.evaluation import comparison
from pipeline.evaluation.comparison import (
    ComparedRun,
    Difference,
    clusters_of,
    compare,
    differing,
    interval,
    shared,
    videos_in,
)
from pipeline.evaluation.per_person import Instances, PersonResults, narrowed
from pipeline.pose.joint_sets import COCO, LSP, MPII, OKS, JointSet
from pipeline.settings import Settings

RIGHT, WRONG = 0.05, 0.7


def results_of(errors: np.ndarray, keys: list[str] | None = None) -> PersonResults:
    """Return people whose joints are off by `errors` heads; equal keys are equal people."""
    people = len(errors)
    keys = keys or [f"person-{number:03d}" for number in range(people)]
    return PersonResults.of(
        keys,
        np.arange(people),
        np.array([crc32(key.encode()) for key in keys]),
        np.zeros((*errors.shape, 2)),
        {"pckh": errors, "pck_torso": np.full(errors.shape, np.nan)},
    )


def run(
    name: str,
    errors: np.ndarray,
    keys: list[str] | None = None,
    joint_set: JointSet = MPII,
    **changes,
) -> ComparedRun:
    settings = Settings.from_flat({"ray.name": name} | changes)
    return ComparedRun(
        name=name, settings=settings, joint_set=joint_set, epoch=1, results=results_of(errors, keys)
    )


def errors_of(right: list[int]) -> np.ndarray:
    """Return errors of people of whose 14 joints of the mean the first `right` are correct."""
    errors = np.full((len(right), 16), WRONG)
    for row, count in enumerate(right):
        errors[row, list(MPII.in_mean)[:count]] = RIGHT
    return errors


def test_equal_runs_differ_by_exactly_zero():
    errors = errors_of([3, 14, 0, 7])
    result = compare([run("a", errors), run("b", errors)])
    [[half, tenth]] = result.differences
    for threshold, difference in ((0.5, half), (0.1, tenth)):
        assert difference == Difference(
            threshold=threshold,
            people=4,
            unit="image",
            clusters=4,
            points=0.0,
            low=0.0,
            high=0.0,
        )
        assert not difference.is_resolved
    assert result.settings == {}
    assert result.scores[0].pooled == result.scores[1].pooled


def test_a_gain_that_all_people_share_has_no_interval():
    # Two more joints of 14 are correct for each person, however people are drawn.
    result = compare([run("a", errors_of([3, 8])), run("b", errors_of([5, 10]))])
    [[half, _]] = result.differences
    gain = pytest.approx(100 * 2 / 14)
    assert (half.points, half.low, half.high) == (gain, gain, gain)
    assert half.is_resolved
    assert result.scores[1].headline - result.scores[0].headline == gain


def test_a_gain_of_one_person_in_two_depends_on_the_resample():
    # Neither, one or both draws are of the person who gains all: 0, 50 or 100 points.
    result = compare([run("a", errors_of([0, 0])), run("b", errors_of([14, 0]))])
    [[half, _]] = result.differences
    assert (half.points, half.low, half.high) == (50.0, 0.0, 100.0)
    assert not half.is_resolved


def test_people_are_weighted_by_their_counted_joints():
    # One has 12 joints and gains 3, the other 2 and loses 1: 2 of 14, not the mean of 25 and -50.
    points, low, high = interval(np.array([3, -1]), np.array([12, 2]), np.arange(2))
    assert points == pytest.approx(100 * 2 / 14)
    assert (low, high) == (-50.0, 25.0)


def test_people_without_a_joint_that_counts_change_nothing():
    errors = [errors_of(right) for right in ([3, 8, 0, 0], [5, 7, 0, 0])]
    for one in errors:
        one[2:] = np.nan
    [[half, _]] = compare([run("a", errors[0]), run("b", errors[1])]).differences
    [[same, _]] = compare([run("a", errors[0][:2]), run("b", errors[1][:2])]).differences
    assert half == replace(same, people=4)


def test_thresholds_are_compared_separately():
    errors = np.full((5, 16), 0.3)
    result = compare([run("a", errors), run("b", errors / 4)])
    [[half, tenth]] = result.differences
    assert (half.threshold, half.points) == (0.5, 0.0)
    assert (tenth.threshold, tenth.points, tenth.low) == (0.1, 100.0, 100.0)


def test_an_interval_covers_the_true_difference_at_its_level():
    # 200 people, of whom each has 5 or 10 joints; the second run has 3 points more on average, in
    # amounts that people's joints share: joints of one person are not independent.
    random = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        annotated = random.choice([5, 10], 200)
        chance = np.clip(random.normal(0.03, 0.15, 200), -1, 1)
        gained = np.sign(chance) * random.binomial(annotated, np.abs(chance))
        _, low, high = interval(gained.astype(np.int64), annotated, np.arange(200))
        held += low <= 3.0 <= high
    # 95 of 100 on average, with a standard deviation of 2.2.
    assert 90 <= held <= 99


def test_an_interval_is_the_same_every_time():
    random = np.random.default_rng(2)
    gained, annotated = random.integers(-2, 4, 500), random.integers(4, 15, 500)
    people = np.arange(500)
    assert interval(gained, annotated, people) == interval(gained, annotated, people)
    # In any order of the people.
    order = random.permutation(500)
    again = interval(gained[order], annotated[order], people[order])
    assert again == interval(gained, annotated, people)


def test_an_interval_is_that_of_drawing_people_one_by_one():
    random = np.random.default_rng(3)
    gained, annotated = random.integers(-2, 4, 300), random.integers(4, 15, 300)
    drawn = random.integers(0, 300, (10_000, 300))
    points = 100 * gained[drawn].sum(axis=1) / annotated[drawn].sum(axis=1)
    _, low, high = interval(gained, annotated, np.arange(300))
    spread = points.std()
    assert (low, high) == pytest.approx(np.quantile(points, [0.025, 0.975]), abs=0.1 * spread)


def coverage(images: int, unit: str, frames: int = 1) -> float:
    """Return how often the interval of people of few images holds the true 3 points."""
    random = np.random.default_rng(4)
    held, runs = 0, 100
    for _ in range(runs):
        people = random.integers(1, 4, images * frames)
        # People of one image, or of one video's frames, share most of their gain.
        shared = np.repeat(random.normal(0.03, 0.15, images), frames)
        chance = np.clip(np.repeat(shared, people), -1, 1)
        annotated = random.choice([5, 10], people.sum())
        gained = np.sign(chance) * random.binomial(annotated, np.abs(chance))
        names = np.repeat(np.arange(images * frames), people)
        keys = [f"film{n // frames}-{n:04d}_{k:02d}" for k, n in enumerate(names.tolist())]
        clusters = clusters_of(keys, unit)
        _, low, high = interval(gained.astype(np.int64), annotated, clusters)
        held += low <= 3.0 <= high
    return held / runs


@pytest.mark.parametrize("images", [20, 60])
def test_an_interval_of_few_images_covers_the_true_difference(monkeypatch, images):
    monkeypatch.setattr(comparison, "RESAMPLES", 500)
    # 95% on average, with a standard deviation of 2.2.
    assert coverage(images, "image") >= 0.88


def test_frames_of_a_video_are_not_independent_evidence(monkeypatch):
    monkeypatch.setattr(comparison, "RESAMPLES", 500)
    assert coverage(30, "video", frames=8) >= 0.88
    assert coverage(30, "image", frames=8) < 0.70


def test_people_are_of_one_cluster_by_image_or_by_video():
    keys = ["a-01_00", "a-01_01", "a-02_00", "b-01_00", "000123_00", "000124_00"]
    assert clusters_of(keys, "image").tolist() == [2, 2, 3, 4, 0, 1]
    assert clusters_of(keys, "video").tolist() == [1, 1, 1, 2, 0, 0]


@pytest.mark.parametrize(
    ("keys", "videos"),
    [
        ([f"film{film}-{n:03d}_00" for film in (1, 2) for n in range(5)], 2),
        ([f"{n:09d}_00" for n in range(9)], 0),
        ([f"im{n:05d}_00" for n in range(9)], 0),
        (["cat_00", "dog_00", "cow_00"], 0),
    ],
)
def test_names_that_look_like_frames_are_noticed(keys, videos):
    assert videos_in(keys) == videos


def test_one_image_is_no_evidence():
    keys = ["photo_00", "photo_01"]
    runs = [run(name, errors_of([count] * 2), keys) for name, count in (("a", 3), ("b", 9))]
    [[half, _]] = compare(runs).differences
    assert (half.low, half.high, half.is_resolved) == (-100.0, 100.0, False)
    assert half.sentence("b", "a", "PCKh") == (
        "PCKh@0.5: b and a do not differ significantly: +42.86 points, a single image is no "
        "evidence"
    )


# People


def test_people_are_paired_by_key_wherever_they_lie():
    ours = run("a", errors_of([1, 2, 3]), ["x", "y", "z"])
    theirs = run("b", errors_of([4, 2, 1]), ["z", "w", "x"])
    one, other = shared(ours.results, theirs.results)
    assert one.keys == other.keys == ("x", "z")
    [[half, _]] = compare([ours, theirs]).differences
    # x: 1 and 1 of 14; z: 3 and 4.
    assert (half.people, half.points) == (2, pytest.approx(100 * 1 / 28))


def test_people_of_one_key_are_paired_in_the_order_of_the_shards():
    ours = results_of(errors_of([1, 2, 3]), ["x", "x", "y"])
    theirs = results_of(errors_of([4, 5, 6]), ["y", "x", "x"])
    one, other = shared(ours, theirs)
    assert one.keys == other.keys == ("x", "x", "y")
    assert (one.positions.tolist(), other.positions.tolist()) == ([0, 1, 2], [1, 2, 0])


def test_runs_without_a_person_in_common_are_refused():
    ours, theirs = run("a", errors_of([1, 2])), run("b", errors_of([1]), ["other"])
    message = (
        "^a and b share none of their 2 and 1 validation people; expected runs on the same data$"
    )
    with pytest.raises(ValueError, match=message):
        compare([ours, theirs])


def test_people_who_are_annotated_otherwise_are_refused():
    errors = errors_of([1, 2, 3])
    theirs = run("b", errors)
    theirs.results.truths[1] += 1
    message = (
        "^a and b share the keys of 3 validation people, of whom 1 are annotated differently; "
        "expected runs on the same data$"
    )
    with pytest.raises(ValueError, match=message):
        compare([run("a", errors), theirs])


def test_people_without_a_joint_that_counts_are_refused():
    nothing = np.full((2, 16), np.nan)
    message = "^a and b: no joint of the people in both counts by pckh$"
    with pytest.raises(ValueError, match=message):
        compare([run("a", nothing), run("b", nothing)])


def test_other_joints_are_refused():
    ours, theirs = run("a", errors_of([1])), run("b", errors_of([1]), joint_set=LSP)
    with pytest.raises(ValueError, match=r"^a and b have different joint sets: mpii and lsp$"):
        compare([ours, theirs])


# Settings and sentences


def test_settings_that_differ_are_listed_and_no_others():
    runs = [
        run("a", errors_of([1]), **{"model.stacks": 2}),
        run("b", errors_of([1]), **{"model.stacks": 4, "data.seed": 3}),
        run("c", errors_of([1]), **{"model.stacks": 2, "ray.storage": "/runs/of-a-sweep"}),
    ]
    found = differing([run.settings for run in runs])
    # The seed comes first, as in the settings; names and places say nothing.
    assert found == {"data.seed": [0, 3, 0], "model.stacks": [2, 4, 2]}
    assert list(found) == ["data.seed", "model.stacks"]


def test_each_run_is_compared_with_the_first():
    runs = [
        run(name, errors_of([count] * 3)) for name, count in zip("abc", (7, 14, 0), strict=True)
    ]
    result = compare(runs)
    assert [half.points for half, _ in result.differences] == [50.0, -50.0]
    assert [scores.headline for scores in result.scores] == [50.0, 100.0, 0.0]


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        (
            (0.4, 2.2),
            "b is better than a by 1.30 points, 95% interval +0.40 to +2.20 over 120 images",
        ),
        (
            (0.0, 2.6),
            "b and a do not differ significantly: +1.30 points, 95% interval +0.00 to +2.60 over "
            "120 images",
        ),
    ],
)
def test_a_sentence_states_whether_a_difference_is_resolved(ends, message):
    found = Difference(
        threshold=0.5,
        people=130,
        unit="image",
        clusters=120,
        points=1.3,
        low=ends[0],
        high=ends[1],
    )
    assert found.sentence("b", "a", "PCKh") == f"PCKh@0.5: {message}"
    worse = replace(found, points=-1.3, low=-ends[1], high=-ends[0])
    word = "worse than a by 1.30" if worse.is_resolved else "differ significantly: -1.30"
    assert word in worse.sentence("b", "a", "PCKh")


# Average precision


def detected(name: str, found: list[bool], images: list[int]) -> ComparedRun:
    """Return a run that puts all joints of some people where they are, and of others far away."""
    people = len(found)
    truth = np.full((people, 17, 2), 50.0)
    off = np.where(found, 0.0, 1000.0)[:, None]
    results = PersonResults.of(
        [f"photo-{image}_{number:02d}" for number, image in enumerate(images)],
        np.arange(people),
        np.arange(people),
        truth + off[..., None],
        {measure.key: np.repeat(off, 17, axis=1) for measure in COCO.measures},
        Instances(
            truth=truth.astype(np.float32),
            annotated=np.ones((people, 17), bool),
            boxes=np.full((people, 4), 100.0, np.float32),
            areas=np.full(people, 10_000.0, np.float32),
            # Those who are found come first.
            scores=np.where(found, 0.9, 0.1).astype(np.float32),
        ),
    )
    settings = Settings.from_flat({"ray.name": name})
    return ComparedRun(name=name, settings=settings, joint_set=COCO, epoch=1, results=results)


def test_average_precision_is_compared_over_the_same_images():
    every = detected("every", [True] * 30, list(range(30)))
    most = detected("most", [True] * 20 + [False] * 10, list(range(30)))
    compared = compare([every, most])
    # Two thirds are found with full precision: 67 of the 101 recalls from 0 to 1.
    assert compared.precisions[0].ap == pytest.approx(100)
    assert compared.precisions[1].ap == pytest.approx(100 * 67 / 101)
    [difference] = compared.precision_differences
    assert difference.points == pytest.approx(-100 * 34 / 101)
    # A third of 30 images is 10 with a standard deviation of 2.6, or 8.6 points of recall.
    assert difference.low == pytest.approx(-33.7 - 2 * 8.6, abs=4)
    assert difference.high == pytest.approx(-33.7 + 2 * 8.6, abs=4)
    assert difference.sentence("most", "every", "OKS AP").startswith(
        "OKS AP: most is worse than every by 33.66 points, 95% interval -5"
    )


def test_runs_whose_measure_is_oks_are_compared_by_average_precision_first():
    chosen = replace(COCO, measures=(OKS,))
    every, most = (
        replace(detected(name, found, list(range(3))), joint_set=chosen)
        for name, found in (("every", [True] * 3), ("most", [True, True, False]))
    )
    # Joints far away have no similarity.
    errors = [np.repeat([[0.0], [0.0], [float(name == "most")]], 17, 1) for name in ("", "most")]
    every, most = (
        replace(one, results=replace(one.results, errors={"oks": narrowed(found)}))
        for one, found in zip((every, most), errors, strict=True)
    )
    compared = compare([every, most])
    assert list(table(compared).index[:4]) == ["OKS AP", "OKS@0.5", "OKS@0.75", "AUC 0.5-1"]
    assert table(compared)["most"]["OKS AP"] == pytest.approx(100 * 67 / 101)
    assert table(compared)["most"]["OKS@0.75"] == pytest.approx(200 / 3)
    lines = sentences(compared)
    assert [line.partition(":")[0] for line in lines[2:5]] == ["OKS AP", "OKS@0.5", "OKS@0.75"]
    older = replace(every, name="older", results=replace(every.results, errors={}))
    with pytest.raises(ValueError, match=r"^older: its results per person lack the measure oks; "):
        compare([every, older])


def test_people_without_an_area_are_left_out_of_the_comparison_of_average_precision():
    found = [True, True, True, False]
    every, most = detected("every", [True] * 4, [1, 2, 3, 4]), detected("most", found, [1, 2, 3, 4])
    both = compare([every, most]).precision_differences[0]
    assert (both.people, both.clusters) == (4, 4)
    areas = np.array([np.nan, 10_000, 10_000, 10_000], np.float32)
    runs = [
        replace(
            one,
            results=replace(one.results, instances=replace(one.results.instances, areas=areas)),
        )
        for one in (every, most)
    ]
    [some] = compare(runs).precision_differences
    # The first person is all of an image.
    assert (some.people, some.clusters) == (3, 3)
    # Two of three are found: 67 of the 101 recalls.
    assert some.points == pytest.approx(-100 * 34 / 101)


def test_people_of_an_image_are_drawn_together_for_average_precision():
    every = detected("every", [True] * 4, [1, 1, 2, 2])
    same = compare([every, detected("same", [True] * 4, [1, 1, 2, 2])])
    [difference] = same.precision_differences
    assert (difference.clusters, difference.points) == (2, 0)
    assert (difference.low, difference.high, difference.is_resolved) == (0, 0, False)
    single = compare([every, detected("other", [True, True, True, False], [1, 1, 2, 2])], "video")
    [difference] = single.precision_differences
    assert (difference.clusters, difference.low, difference.high) == (1, -100, 100)


def test_without_sigmas_there_is_no_average_precision_to_compare():
    compared = compare([run("a", errors_of([3, 4])), run("b", errors_of([4, 4]))])
    assert compared.precisions == (None, None)
    assert compared.precision_differences == (None,)
