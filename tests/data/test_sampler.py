"""The order of an epoch: one permutation, shared out without a sample lost or doubled."""

from itertools import pairwise

import numpy as np
import pytest

from pipeline.data.sampler import epoch_order, rank_batches, validation_batches

BOUNDS = np.array([0, 5, 8, 15, 17])


@pytest.mark.parametrize("window", [1, 4, 100])
def test_an_epoch_holds_every_sample_once(window):
    order = epoch_order(BOUNDS, seed=0, epoch=0, window=window)
    assert sorted(order.tolist()) == list(range(17))


def test_an_epoch_is_decided_by_its_seed_and_number():
    def order(seed: int, epoch: int) -> list[int]:
        return epoch_order(BOUNDS, seed, epoch, 100).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    # Seed and epoch are not simply added.
    assert order(0, 1) != order(1, 0)


def test_a_window_of_one_shuffles_whole_shards_only():
    orders = [epoch_order(BOUNDS, 0, epoch, 1).tolist() for epoch in range(8)]
    for order in orders:
        for start, end in pairwise(BOUNDS):
            at = order.index(start)
            assert order[at : at + end - start] == list(range(start, end))
    assert len({tuple(order) for order in orders}) > 1


def test_a_window_shuffles_only_the_samples_within_it():
    whole = epoch_order(BOUNDS, 0, 3, 1)
    mixed = epoch_order(BOUNDS, 0, 3, 5)
    assert mixed.tolist() != whole.tolist()
    for start in range(0, 17, 5):
        assert sorted(mixed[start : start + 5]) == sorted(whole[start : start + 5])


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 6])
def test_a_steps_batch_is_the_same_for_any_number_of_workers(workers):
    order = epoch_order(BOUNDS, 0, 0, 100)
    ranks = [list(rank_batches(order, 6, rank, workers)) for rank in range(workers)]
    steps = [np.concatenate(shares) for shares in zip(*ranks, strict=True)]
    assert [step.tolist() for step in steps] == [order[:6].tolist(), order[6:12].tolist()]


def test_a_batch_that_does_not_divide_is_shared_as_evenly_as_it_can_be():
    order = np.arange(6)
    shares = [next(rank_batches(order, 6, rank, 4)).tolist() for rank in range(4)]
    assert shares == [[0], [1, 2], [3], [4, 5]]


def test_two_workers_take_equal_steps_and_every_sample_once_up_to_the_remainder():
    order = epoch_order(BOUNDS, 0, 0, 100)
    first, second = (list(rank_batches(order, 4, rank, 2)) for rank in range(2))
    assert len(first) == len(second) == 17 // 4
    taken = np.concatenate(first + second).tolist()
    assert len(taken) == len(set(taken)) == 16
    assert set(taken) | {int(order[16])} == set(range(17))
    # By hand: the first worker has the first half of each step.
    assert first[1].tolist() == order[4:6].tolist()
    assert second[1].tolist() == order[6:8].tolist()


@pytest.mark.parametrize("step", [0, 1, 3, 4])
def test_continuing_at_a_step_gives_the_batches_that_were_left(step):
    order = epoch_order(BOUNDS, 0, 0, 100)
    whole = [batch.tolist() for batch in rank_batches(order, 4, 1, 2)]
    rest = [batch.tolist() for batch in rank_batches(order, 4, 1, 2, first_step=step)]
    assert rest == whole[step:]


def test_fewer_samples_than_a_batch_give_no_step():
    assert list(rank_batches(np.arange(5), 6, 0, 1)) == []


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("samples", [1, 8, 17])
def test_validation_covers_every_sample_exactly_once(samples, workers):
    taken = [
        position
        for rank in range(workers)
        for batch in validation_batches(samples, 4, rank, workers)
        for position in batch.tolist()
    ]
    assert sorted(taken) == list(range(samples))


def test_validation_batches_are_the_same_for_any_number_of_workers():
    def batches(workers: int) -> set[tuple[int, ...]]:
        return {
            tuple(batch.tolist())
            for rank in range(workers)
            for batch in validation_batches(10, 4, rank, workers)
        }

    assert batches(1) == batches(2) == batches(3) == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)}
