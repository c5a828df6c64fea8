"""Batches on their way to the device."""

import numpy as np
import pytest
import torch

from pipeline.data.batch import Batch
from pipeline.data.prefetch import prefetch


def batch_of(number: int) -> Batch:
    return Batch(
        images=torch.full((2, 64, 64, 3), number, dtype=torch.uint8),
        joints=torch.full((2, 3, 2), float(number)),
        annotated=torch.ones(2, 3, dtype=torch.bool),
        gains=torch.ones(2, 3),
        positions=np.array([number, number + 1]),
    )


def test_on_cpu_batches_pass_as_they_come():
    batches, asked = [batch_of(number) for number in range(3)], []

    def source():
        for batch in batches:
            asked.append(batch)
            yield batch

    stream = prefetch(source(), torch.device("cpu"))
    for number, batch in enumerate(batches, start=1):
        assert next(stream) is batch
        assert len(asked) == number
    assert next(stream, None) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_batches_arrive_whole_and_in_order():
    device = torch.device("cuda")
    found = list(prefetch((batch_of(number) for number in range(20)), device))
    assert [batch.positions.tolist() for batch in found] == [[n, n + 1] for n in range(20)]
    for number, batch in enumerate(found):
        assert batch.images.device.type == batch.joints.device.type == "cuda"
        assert bool((batch.images == number).all())
        assert bool((batch.joints == number).all())
