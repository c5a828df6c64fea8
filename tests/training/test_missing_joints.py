"""The gradient of a batch with missing joints, however workers and parts divide it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from trainers import CPU, start_ranks

from pipeline.data.batch import Batch
from pipeline.data.sampler import rank_batches
from pipeline.model.build import build_network
from pipeline.settings import ModelSettings, OptimSettings
from pipeline.training.distributed import parallel
from pipeline.training.step import build_optimizer, train_step

# Neither two nor three workers have equal shares, as in an elastic run.
SAMPLES = 11
MODEL = ModelSettings(stacks=1, features=8, joints=4, input_px=64)
# Losses, and the shares of joints that are missing.
CASES = [
    ("mse", "mask", 0.4),
    ("mse", "mask", 0.9),
    ("mse", "zero", 0.4),
    ("cross-entropy", "mask", 0.9),
]


def batch(share: float) -> Batch:
    """Random people, the first two without a joint and the last with all of them."""
    random = torch.Generator().manual_seed(1)
    annotated = torch.rand(SAMPLES, MODEL.joints, generator=random) >= share
    annotated[:2] = False
    annotated[-1] = True
    return Batch(
        images=torch.randint(0, 256, (SAMPLES, 64, 64, 3), dtype=torch.uint8, generator=random),
        joints=16 * torch.rand(SAMPLES, MODEL.joints, 2, generator=random),
        annotated=annotated,
        gains=torch.ones(SAMPLES, 3),
        positions=np.arange(SAMPLES),
    )


def step(loss: str, missing: str, share: float, parts: int, workers: int, rank: int):
    """Return the loss and all gradients of this rank's step, with BatchNorm in eval mode."""
    settings = OptimSettings(
        loss=loss, missing_joints=missing, accumulate=parts, batch_size=SAMPLES, target_peak=10.0
    )
    # In float64, so that rounding hides nothing.
    network = build_network(MODEL, 0, CPU, zero_heads=False).double()
    network.register_forward_pre_hook(lambda _, given: (given[0].double(),))
    trained = parallel(network, CPU, sync_batchnorm=False).eval()
    [rows] = rank_batches(np.arange(SAMPLES), SAMPLES, rank, workers)
    found = train_step(
        trained,
        build_optimizer(network, settings),
        batch(share).rows(rows),
        settings,
        CPU,
        torch.float32,
        workers=workers,
    )
    return found.loss, torch.cat([weight.grad.ravel() for weight in network.parameters()])


def work(rank: int, folder: Path) -> None:
    """Take every case's step as a rank of three and of two workers."""
    for workers in (3, 2):
        if rank < workers:
            dist.init_process_group(
                "gloo", init_method=f"file://{folder}/{workers}", rank=rank, world_size=workers
            )
            found = {}
            for case in CASES:
                for parts in (1, 4):
                    loss, gradient = step(*case, parts, workers, rank)
                    dist.all_reduce(loss)
                    found[case, parts] = loss / workers, gradient
            torch.save(found, folder / f"{workers}-{rank}.pt")
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    start_ranks(work, (folder,), 3)
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_workers_and_parts_do_not_change_the_gradient(ranks, case):
    expected_loss, expected = step(*case, 1, 1, 0)

    # The gradient of a softmax in float32 is a small difference of rounded probabilities.
    close = 1e-5 if case[0] == "cross-entropy" else 1e-6

    def check(loss, gradient) -> None:
        assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
        assert float((gradient - expected).norm() / expected.norm()) < close

    check(*step(*case, 4, 1, 0))
    for workers in (2, 3):
        for parts in (1, 4):
            check(*torch.load(ranks / f"{workers}-0.pt")[case, parts])


def test_a_batch_without_a_trained_joint_costs_nothing():
    nothing = batch(0.0)
    nothing.annotated[:] = False
    settings = OptimSettings(missing_joints="mask", accumulate=3)
    network = build_network(MODEL, 0, CPU)
    found = train_step(
        network, build_optimizer(network, settings), nothing, settings, CPU, torch.float32
    )
    assert (float(found.loss), float(found.norm)) == (0.0, 0.0)
