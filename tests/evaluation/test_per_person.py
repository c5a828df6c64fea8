"""Results per person give the same counts in single precision, and are read without pickle."""

import re

import numpy as np
import pytest

from pipeline.evaluation.metrics import THRESHOLDS, joint_counts
from pipeline.evaluation.per_person import PersonResults, narrowed, read_results
from pipeline.pose.joint_sets import MPII

PCKH = MPII.measure("pckh")
UNREADABLE = "not readable as results per person"


def results_of(
    keys: tuple[str, ...], errors: np.ndarray, positions: list[int] | None = None
) -> PersonResults:
    """Return people whose joints are off by `errors`, a row each, by both measures."""
    people = len(keys)
    return PersonResults.of(
        keys,
        np.array(range(people) if positions is None else positions, np.int64),
        2**31 + np.arange(people),
        np.arange(people * 32, dtype=np.float64).reshape(people, 16, 2),
        {"pckh": errors, "pck_torso": 2 * errors},
    )


def test_errors_stay_on_their_side_of_every_threshold_in_single_precision():
    above, below = np.nextafter(THRESHOLDS, 1), np.nextafter(THRESHOLDS, -1)
    errors = np.stack([below, THRESHOLDS, above])[:, 1:]
    # Half of the thresholds are rounded to what lies above them.
    assert 10 < (errors.astype(np.float32) > errors).sum() < 140
    kept = narrowed(errors)
    assert kept.dtype == np.float32
    assert kept == pytest.approx(errors, rel=1.2e-7)
    assert np.array_equal(joint_counts(kept).correct, joint_counts(errors).correct)
    # Each counts from its own threshold on, and what is above it from the next.
    assert joint_counts(kept).correct[:, 9].tolist() == [0] * 10 + [2] + [3] * 40


def test_missing_and_infinite_errors_keep_their_values():
    errors = np.array([[np.nan, np.inf, 0.0, 5e-324]])
    kept = narrowed(errors)[0].tolist()
    assert np.isnan(kept[0])
    assert kept[1:3] == [np.inf, 0.0]
    # Not right to the last bit, so not right at a threshold of 0.
    assert kept[3] > 0


def test_people_come_in_the_order_of_their_keys_and_equal_ones_in_that_of_the_shards():
    results = results_of(
        ("b", "a", "b", "c"), np.arange(64.0).reshape(4, 16), [7, 9, 3, 1]
    ).by_key()
    assert results.keys == ("a", "b", "b", "c")
    assert results.positions.tolist() == [9, 3, 7, 1]
    assert results.errors["pckh"][:, 0].tolist() == [16.0, 32.0, 0.0, 48.0]
    assert (results.truths - 2**31).tolist() == [1, 2, 0, 3]
    assert results.errors["pck_torso"][:, 0].tolist() == [32.0, 64.0, 0.0, 96.0]
    assert results.joints[:, 0, 0].tolist() == [32.0, 64.0, 0.0, 96.0]


def test_parts_are_concatenated():
    one, other = results_of(("a",), np.zeros((1, 16))), results_of(("b",), np.ones((1, 16)), [4])
    both = PersonResults.together([PersonResults.nobody(MPII), one, other])
    assert (both.keys, both.positions.tolist()) == (("a", "b"), [0, 4])
    assert both.errors["pckh"][:, 3].tolist() == [0.0, 1.0]
    assert len(PersonResults.nobody(MPII)) == 0


def test_a_mean_error_is_over_the_joints_that_count_in_the_mean():
    errors = np.full((3, 16), np.nan)
    # Right ankle, knee and hip; pelvis and thorax are no part of the mean.
    errors[0, [0, 1, 2]] = 0.25, 0.5, 1.5
    errors[0, [6, 7]] = 100.0
    errors[1, [0, 1]] = 0.25, np.inf
    means = results_of(("a", "b", "c"), errors).mean_errors(MPII, PCKH)
    assert means[:2].tolist() == [0.75, np.inf]
    assert np.isnan(means[2])


def test_results_survive_their_file(tmp_path):
    errors = np.linspace(0, 1, 32).reshape(2, 16)
    errors[1, 5] = np.nan
    results = results_of(("bär_00", "a_01"), errors)
    path = tmp_path / "people.npz"
    path.write_bytes(results.to_bytes())
    read = read_results(path)
    assert read.keys == ("bär_00", "a_01")
    assert read.to_bytes() == results.to_bytes()
    assert np.array_equal(read.errors["pckh"], results.errors["pckh"], equal_nan=True)
    assert np.array_equal(read.joints, results.joints)
    assert read.truths.tolist() == [2**31, 2**31 + 1]
    with np.load(path, allow_pickle=False) as stored:
        kinds = {
            name: stored[name].dtype.kind + str(stored[name].itemsize) for name in stored.files
        }
    assert kinds.pop("keys").startswith("U")
    assert kinds == {
        **{"positions": "i8", "truths": "i8", "joints": "f4"},
        **{"errors.pckh": "f4", "errors.pck_torso": "f4"},
    }


def test_results_of_no_people_survive_their_file_too(tmp_path):
    path = tmp_path / "people.npz"
    path.write_bytes(PersonResults.nobody(MPII).to_bytes())
    assert read_results(path).keys == ()


def pickled(path):
    np.savez(path, keys=np.array([{"a": 1}], object))


def torn(path):
    content = results_of(("a",), np.zeros((1, 16))).to_bytes()
    path.write_bytes(content[: len(content) // 2])


def other(path):
    np.savez(path, people=np.zeros(3))


def uneven(path):
    one, two = results_of(("a",), np.zeros((1, 16))), results_of(("a", "b"), np.zeros((2, 16)))
    arrays = {"keys": np.array(two.keys), "positions": two.positions, "joints": two.joints}
    np.savez(path, truths=two.truths, **arrays, **{"errors.pckh": one.errors["pckh"]})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: None, "no such file"),
        (pickled, f"{UNREADABLE}: Object arrays cannot be loaded when allow_pickle=False"),
        (torn, f"{UNREADABLE}: "),
        (other, f"{UNREADABLE}: 'keys'"),
        (uneven, "its arrays differ in their numbers of people or joints"),
    ],
)
def test_a_damaged_or_foreign_file_is_named(tmp_path, spoil, message):
    path = tmp_path / "people.npz"
    spoil(path)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}"):
        read_results(path)
