"""Average precision by OKS: values worked out by hand, and those of COCO's own code."""

import contextlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.coco
import pytest
from factories import sample
from pycocotools.cocoeval import COCOeval

import jobs.score
from pipeline.data.formats.coco import read_coco
from pipeline.data.formats.coco_truth import AnnotatedPeople, read_coco_results, read_coco_truth
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import Sample
from pipeline.evaluation.evaluate import Predictions, evaluate_people
from pipeline.evaluation.oks import average_precision, match, matches_of, precision_of, similarity
from pipeline.evaluation.per_person import read_results
from pipeline.pose.joint_sets import COCO
from pipeline.settings.packing import AnnotationFiles

JOINTS = len(COCO.joints)


def person(number: int, image: int, joints: np.ndarray, size: float, **fields: Any) -> dict:
    """Return an annotation with all joints visible, in a square box around them."""
    triples = np.concatenate([joints, np.full((JOINTS, 1), 2.0)], axis=1)
    corner = joints.mean(axis=0) - size / 2
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "keypoints": triples.ravel().tolist(),
        "num_keypoints": JOINTS,
        "bbox": [*corner.tolist(), size, size],
        "area": size**2,
        "iscrowd": 0,
    } | fields


def detection(image: int, joints: np.ndarray, score: float, category: int = 1) -> dict:
    triples = np.concatenate([joints, np.ones((JOINTS, 1))], axis=1)
    return {
        "image_id": image,
        "category_id": category,
        "keypoints": triples.ravel().tolist(),
        "score": score,
    }


def annotations(people: list[dict], images: int, categories: int = 1) -> dict:
    return {
        "images": [{"id": 10 * number} for number in range(1, images + 1)],
        "categories": [
            {"id": number, "name": f"kind {number}", "keypoints": list(COCO.joints)}
            for number in range(1, categories + 1)
        ],
        "annotations": people,
    }


def crowded(seed: int, categories: int = 1) -> tuple[dict, list[dict]]:
    """Return images with several people, crowds, unlabelled people and equal scores."""
    random = np.random.default_rng(seed)
    people: list[dict] = []
    found: list[dict] = []
    for image in range(10, 130, 10):
        for _ in range(random.integers(0, 5)):
            size = float(random.choice([20, 60, 150, 300]))
            joints = random.uniform(0, 600, 2) + random.uniform(-0.5, 0.5, (JOINTS, 2)) * size
            states = random.choice([0, 1, 2], JOINTS, p=[0.3, 0.2, 0.5]) * (random.random() > 0.15)
            triples = np.concatenate([joints * (states > 0)[:, None], states[:, None]], axis=1)
            category, crowd = int(random.integers(1, categories + 1)), int(random.random() < 0.15)
            people.append(
                person(
                    *(len(people) + 1, image, joints, size),
                    keypoints=triples.ravel().tolist(),
                    num_keypoints=int((states > 0).sum()),
                    area=size**2 * random.uniform(0.3, 1),
                    iscrowd=crowd,
                    category_id=category,
                )
            )
            for _ in range(6 if crowd else random.integers(0, 3)):
                error = random.normal(0, size * random.choice([0.01, 0.05, 0.1, 0.3]), (JOINTS, 2))
                score = float(np.round(random.random(), 1))
                found.append(detection(image, joints + error, score, category))
        # More than the twenty that count, in some images without anybody.
        for _ in range(random.choice([0, 2, 25])):
            joints, score = random.uniform(0, 600, (JOINTS, 2)), float(np.round(random.random(), 2))
            found.append(detection(image, joints, score, int(random.integers(1, categories + 1))))
    return annotations(people, 12, categories), found


def ours(folder: Path, truth: dict, found: list[dict]) -> dict[str, float]:
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(found))
    read = read_coco_truth(folder / "truth.json")
    detected = read_coco_results(folder / "found.json", read)
    return average_precision(match(read.people, detected, np.array(read.sigmas))).as_dict()


def cocos(truth: dict, found: list[dict]) -> dict[str, float]:
    """Return the numbers of COCO's own code, in percent, without those that it calls -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        file = pycocotools.coco.COCO()
        file.dataset = truth
        file.createIndex()
        evaluation = COCOeval(file, file.loadRes(found), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = [
        f"{name}{suffix}" for name in ("ap", "ar") for suffix in ("", "_50", "_75", "_m", "_l")
    ]
    values = zip(names, evaluation.stats.tolist(), strict=True)
    return {name: 100 * value for name, value in values if value != -1}


@pytest.fixture
def spread() -> Callable[[float, float], np.ndarray]:
    """Return a function from a corner to seventeen different joints."""

    def joints(left: float, top: float) -> np.ndarray:
        steps = np.arange(JOINTS)
        return np.stack([left + 5.0 * steps, top + 3.0 * (steps % 4)], axis=1)

    return joints


@pytest.mark.parametrize("seed", range(12))
def test_average_precision_is_that_of_cocos_own_code(tmp_path, seed):
    truth, found = crowded(seed, categories=1 + seed % 3)
    assert ours(tmp_path, truth, found) == pytest.approx(cocos(truth, found), abs=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        "coco_ap_goldens/test_coco.json",
        *[f"coco_mini/person_keypoints_{split}2017.json" for split in ("train", "val")],
    ],
)
def test_average_precision_is_cocos_on_real_annotations(tmp_path, tools_dir, name):
    truth = json.loads((tools_dir / name).read_text())
    random, found = np.random.default_rng(0), []
    for one in truth["annotations"]:
        joints = np.array(one["keypoints"], float).reshape(-1, 3)[:, :2]
        size = math.sqrt(one["area"])
        for spread in (0.03, 0.1)[: random.integers(0, 3)]:
            placed = joints + random.normal(0, spread * size, joints.shape)
            found.append(detection(one["image_id"], placed, float(random.random())))
    values = ours(tmp_path, truth, found)
    assert values == pytest.approx(cocos(truth, found), abs=1e-9)
    assert 5 < values["ap"] < 95


def test_a_joint_two_sigmas_off_has_the_similarity_of_one_over_root_e(spread):
    # One labelled joint, the nose: exp(-d^2 / (2 area (2 sigma)^2)) with d = 2 sigma sqrt(area).
    truth = AnnotatedPeople(
        images=np.zeros(1, np.int64),
        categories=np.zeros(1, np.int64),
        joints=spread(0, 0)[None],
        annotated=(np.arange(JOINTS) == 0)[None],
        boxes=np.array([[0.0, 0, 100, 100]]),
        areas=np.array([10_000.0]),
        crowd=np.zeros(1, bool),
    )
    moved = truth.joints.copy()
    moved[0, 0, 0] += 2 * COCO.sigmas[0] * 100
    moved[0, 1:] += 1000
    found = similarity(moved, truth, np.array(COCO.sigmas))
    assert found[0, 0] == pytest.approx(math.exp(-0.5))


def test_two_people_found_and_one_ghost_between_them_give_the_precision_by_hand(tmp_path, spread):
    first, second = spread(0, 0), spread(200, 200)
    people = [person(1, 10, first, 100.0), person(2, 10, second, 100.0)]
    found = [
        detection(10, first, 0.9),
        detection(10, spread(500, 500), 0.8),
        detection(10, second, 0.7),
    ]
    values = ours(tmp_path, annotations(people, 1), found)
    # Precision is 1 at the recalls 0 to 0.5, 51 of the 101, and 2/3 above.
    assert values["ap"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert values["ar"] == 100.0
    # A person of 100 x 100 pixels is large, so that there are no medium ones.
    assert "ap_m" not in values
    # The ghost's joints span 80 x 9 pixels, so that it is ignored where large people count.
    assert values["ap_l"] == pytest.approx(100)


def test_a_person_found_twice_counts_once(tmp_path, spread):
    people = [person(1, 10, spread(0, 0), 100.0)]
    found = [detection(10, spread(0, 0), 0.5), detection(10, spread(0, 0), 0.9)]
    values = ours(tmp_path, annotations(people, 1), found)
    assert (values["ap"], values["ar"]) == (pytest.approx(100), 100.0)


def test_nobody_found_is_zero_and_nobody_annotated_is_undefined(tmp_path, spread):
    one = [person(1, 10, spread(0, 0), 100.0)]
    assert ours(tmp_path, annotations(one, 1), [])["ap"] == 0.0
    assert ours(tmp_path, annotations([], 1), [detection(10, spread(0, 0), 0.9)]) == {}


def test_images_count_as_often_as_they_are_drawn(tmp_path, spread):
    people = [person(1, 10, spread(0, 0), 100.0), person(2, 20, spread(0, 0), 100.0)]
    truth = annotations(people, 2)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps([detection(10, spread(0, 0), 0.9)]))
    read = read_coco_truth(tmp_path / "truth.json")
    matches = match(
        read.people,
        read_coco_results(tmp_path / "found.json", read),
        np.array(read.sigmas),
    )
    recalls = [
        average_precision(matches, np.array(weights)).ar for weights in ([1, 1], [3, 1], [0, 2])
    ]
    assert recalls == [50.0, 75.0, 0.0]


def test_areas_and_boxes_that_are_absent_come_from_box_and_joints(tmp_path, spread):
    whole = person(1, 10, spread(0, 0), 100.0)
    bare = {key: value for key, value in whole.items() if key not in ("area", "bbox")}
    (tmp_path / "truth.json").write_text(json.dumps(annotations([bare], 1)))
    read = read_coco_truth(tmp_path / "truth.json")
    # The joints reach from 0 to 80 and from 0 to 9.
    assert read.people.boxes.tolist() == [[0, 0, 80, 9]]
    assert read.people.areas.tolist() == [pytest.approx(0.53 * 80 * 9)]
    assert read.notes == (
        "1 people have no box: that of their labelled joints is taken",
        "1 people have no area: 0.53 times the box's is taken",
    )


def packed_people(folder: Path, truth: dict, pack: Callable[..., list[Path]]) -> SampleLoader:
    """Return a loader of the people that packing would take from an annotation file."""
    for one in truth["images"]:
        one |= {"file_name": f"{one['id']:06d}.jpg", "width": 1200, "height": 1200}
    (folder / "truth.json").write_text(json.dumps(truth))
    read = read_coco(AnnotationFiles(annotations=folder / "truth.json"))
    people = [replace(person, person=number) for number, person in enumerate(read.people)]
    crop = sample(image="a.jpg").crop
    shard = pack([Sample(person=one, crop=crop) for one in people], joint_set=COCO, split="val")
    return SampleLoader(ShardReader(list(map(str, shard))), COCO, 64)


def predictions_near(loader: SampleLoader) -> Predictions:
    """Place joints around the truth, further away for some people than for others."""
    random, count = np.random.default_rng(1), len(loader.samples)
    truth = np.array([loader.samples[n].person.joints for n in range(count)])
    sizes = np.array([math.sqrt(loader.samples[n].person.area or 0) for n in range(count)])
    spread = sizes * random.choice([0.01, 0.05, 0.1, 0.2], count)
    return Predictions(
        positions=np.arange(count),
        joints=truth + random.normal(0, 1, truth.shape) * spread[:, None, None],
        confidence=random.uniform(0, 1, truth.shape[:2]),
        loss=0.0,
    )


def test_the_precision_of_an_evaluation_is_that_of_cocos_code(tmp_path, pack):
    truth = crowded(3)[0]
    # Readers of annotations pass over crowds and people without labelled joints.
    truth["annotations"] = [
        one for one in truth["annotations"] if one["num_keypoints"] > 1 and not one["iscrowd"]
    ]
    loader = packed_people(tmp_path, truth, pack)
    predictions = predictions_near(loader)
    results = evaluate_people([predictions], loader)[1].by_key()
    precision = precision_of(results, COCO)
    scores = predictions.confidence.mean(axis=1).tolist()
    found = [
        detection(one["image_id"], joints, score)
        for one, joints, score in zip(truth["annotations"], predictions.joints, scores, strict=True)
    ]
    # Results per person are in single precision.
    assert precision.as_dict() == pytest.approx(cocos(truth, found), abs=1e-3)
    assert 10 < precision.ap < 90
    (tmp_path / "people.npz").write_bytes(results.to_bytes())
    assert precision_of(read_results(tmp_path / "people.npz"), COCO) == precision


def test_without_areas_a_share_of_the_box_is_taken_and_without_boxes_nothing(tmp_path, pack):
    truth = crowded(3)[0]
    for one in truth["annotations"]:
        del one["area"]
    loader = packed_people(tmp_path, truth, pack)
    results = evaluate_people([predictions_of_truth(loader)], loader)[1]
    boxes = results.instances.boxes.astype(float)
    assert results.instances.areas == pytest.approx(0.53 * boxes[:, 2] * boxes[:, 3])
    assert precision_of(results, COCO).ap == pytest.approx(100)
    some = results.instances.areas.copy()
    some[0] = np.nan
    known = matches_of(replace(results, instances=replace(results.instances, areas=some)), COCO)
    # A person without a size is left out.
    assert (known.people[0].sum(), len(known.group)) == (len(results) - 1, len(results) - 1)
    assert average_precision(known).ap == pytest.approx(100)
    unknown = replace(results.instances, areas=np.full(len(results), np.nan, np.float32))
    assert precision_of(replace(results, instances=unknown), COCO) is None
    assert precision_of(replace(results, instances=None), COCO) is None
    assert precision_of(results, replace(COCO, sigmas=())) is None


def predictions_of_truth(loader: SampleLoader) -> Predictions:
    count = len(loader.samples)
    return Predictions(
        positions=np.arange(count),
        joints=np.array([loader.samples[n].person.joints for n in range(count)]),
        confidence=np.ones((count, JOINTS)),
        loss=0.0,
    )


def test_damaged_rows_of_instances_are_refused(tmp_path, pack):
    loader = packed_people(tmp_path, crowded(3)[0], pack)
    results = evaluate_people([predictions_of_truth(loader)], loader)[1]
    with np.load(io.BytesIO(results.to_bytes())) as stored:
        arrays = dict(stored)
    arrays["instances.scores"] = arrays["instances.scores"][1:]
    np.savez(tmp_path / "people.npz", **arrays)
    with pytest.raises(ValueError, match=r"people\.npz: its arrays instances\.\* differ"):
        read_results(tmp_path / "people.npz")


def test_coco_results_are_scored_by_the_command(tmp_path, spread, capsys):
    people = [person(1, 10, spread(0, 0), 100.0), person(2, 10, spread(200, 200), 100.0)]
    (tmp_path / "truth.json").write_text(json.dumps(annotations(people, 1)))
    (tmp_path / "found.json").write_text(json.dumps([detection(10, spread(0, 0), 0.9)]))
    files = {"predictions": "found.json", "truth": "truth.json", "json": "scores.json"}
    jobs.score.main(
        [word for key, name in files.items() for word in (f"--{key}", str(tmp_path / name))]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 detections of 2 people in 1 images of truth.json"
    assert lines[2].split() == ["average", "precision", "50.50", "50.50", "50.50", "-", "50.50"]
    assert lines[3].split() == ["average", "recall", "50.00", "50.00", "50.00", "-", "50.00"]
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["measure"] == "oks"
    assert scores["ap"] == pytest.approx(100 * 51 / 101)


@pytest.mark.parametrize(
    ("truth", "found", "message"),
    [
        ({}, [{"image_id": 11}], "results[0]: image_id 11 is not in the annotation file"),
        ({}, [{"category_id": 2}], "results[0]: category_id 2 is not in the annotation file"),
        ({}, [{"keypoints": [1, 2, 3]}], "results[0]: keypoints has shape (3,), expected (51,)"),
        ({}, [{"score": None}], "results[0]: score: expected finite numbers, got None"),
        ({}, {"image_id": 10}, "results must be a list, got {"),
        ({"categories": []}, [], "categories: expected one with keypoints, got 0"),
        (
            {"categories": [{"id": 1, "keypoints": ["beak", "tail"]}]},
            [],
            "the OKS sigmas of its 2 keypoints (beak, tail) are not known: give a joint-set file",
        ),
        (
            {"categories": [{"id": 1, "keypoints": ["a"]}, {"id": 2, "keypoints": ["b"]}]},
            [],
            "categories[1] has other keypoints than categories[0]: b",
        ),
        (
            {"categories": [{"id": 1, "keypoints": ["a"]}, {"id": "1", "keypoints": ["a"]}]},
            [],
            "categories[1] has the id 1 of another one before it, expected one id each",
        ),
        (
            {"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]},
            [],
            "images[1] has the id 1 of another one before it, expected one id each",
        ),
    ],
)
def test_wrong_files_are_refused_by_record_and_field(tmp_path, spread, truth, found, message):
    people = [] if truth else [person(1, 10, spread(0, 0), 100.0)]
    whole = detection(10, spread(0, 0), 0.9)
    results = [whole | one for one in found] if isinstance(found, list) else found
    with pytest.raises(ValueError, match=r"\.json") as error:
        ours(tmp_path, annotations(people, 1) | truth, results)
    assert message in str(error.value)


def test_other_joints_are_scored_with_the_sigmas_of_a_joint_set_file(tmp_path, capsys):
    (tmp_path / "birds.toml").write_text(
        'name = "birds"\njoints = ["beak", "tail"]\nnormaliser = "box"\nindex_base = 0\n'
        "sigmas = [0.05, 0.1]\n"
    )
    truth = {
        "images": [{"id": "a"}],
        "categories": [{"id": 7, "keypoints": ["beak", "tail"]}],
        "annotations": [
            {
                "image_id": "a",
                "category_id": 7,
                "keypoints": [10, 10, 2, 60, 10, 2],
                "bbox": [0, 0, 100, 100],
            }
        ],
    }
    # The beak is right; the tail is off by 2 sigma sqrt(area), so OKS is
    # (1 + exp(-1/2)) / 2 = 0.80.
    off = 2 * 0.1 * math.sqrt(0.53 * 100 * 100)
    found = [
        {"image_id": "a", "category_id": 7, "keypoints": [10, 10, 1, 60 + off, 10, 1], "score": 0.4}
    ]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    words = ["--predictions", "found.json", "--truth", "truth.json", "--joint-set", "birds.toml"]
    jobs.score.main([word if word.startswith("--") else str(tmp_path / word) for word in words])
    table = capsys.readouterr().out.splitlines()
    # It is found at the OKS of 0.50 to 0.80, seven of the ten.
    assert table[-2].split()[2:5] == ["70.00", "100.00", "100.00"]
