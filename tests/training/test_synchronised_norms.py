"""BatchNorm over all workers' samples, in float64 on CPUs.

Torch's kernels for it run on GPUs alone. Here its formula stands in for them; all around it is what
training does: the conversion of the norms, DDP, and unequal shares of a batch.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from trainers import CPU, start_ranks

from pipeline.data.batch import Batch
from pipeline.data.sampler import rank_batches
from pipeline.model.build import build_network
from pipeline.settings import ModelSettings, OptimSettings
from pipeline.training.distributed import parallel
from pipeline.training.step import build_optimizer, train_step

# Of two workers one has a sample more.
SAMPLES = 11
MODEL = ModelSettings(stacks=1, features=8, joints=4, input_px=64)


def over_all_workers(norm: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    """Normalise by mean and variance of the samples of all workers, as torch documents it."""
    sums = torch.stack(
        [torch.ones_like(x).sum((0, 2, 3)), x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))]
    )
    count, total, squares = dist.nn.functional.all_reduce(sums)
    mean = total / count
    variance = squares / count - mean**2
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
    scaled = (x - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def step(workers: int, rank: int, *, synchronised: bool) -> tuple[Tensor, Tensor]:
    """Return the gradients of a step on this rank's share, and the statistics after it."""
    random = torch.Generator().manual_seed(1)
    whole = Batch(
        images=torch.randint(0, 256, (SAMPLES, 64, 64, 3), dtype=torch.uint8, generator=random),
        joints=16 * torch.rand(SAMPLES, MODEL.joints, 2, generator=random),
        annotated=torch.ones(SAMPLES, MODEL.joints, dtype=torch.bool),
        gains=torch.ones(SAMPLES, 3),
        positions=np.arange(SAMPLES),
    )
    settings = OptimSettings(batch_size=SAMPLES, target_peak=10.0)
    network = build_network(MODEL, 0, CPU, zero_heads=False).double()
    network.register_forward_pre_hook(lambda _, given: (given[0].double(),))
    trained = parallel(network, CPU, sync_batchnorm=synchronised).train()
    optimizer = build_optimizer(network, settings)
    [rows] = rank_batches(np.arange(SAMPLES), SAMPLES, rank, workers)
    train_step(trained, optimizer, whole.rows(rows), settings, CPU, torch.float32, workers=workers)
    return (
        torch.cat([weight.grad.ravel() for weight in network.parameters()]),
        torch.cat([b.ravel() for b in network.buffers() if b.is_floating_point()]),
    )


def work(rank: int, folder: Path) -> None:
    nn.SyncBatchNorm.forward = over_all_workers
    # DDP refuses these layers on CPUs, for torch's kernels.
    DistributedDataParallel._passing_sync_batchnorm_handle = lambda *_: None
    dist.init_process_group("gloo", init_method=f"file://{folder}/2", rank=rank, world_size=2)
    found = {on: step(2, rank, synchronised=on) for on in (True, False)}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[bool, tuple[Tensor, Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    start_ranks(work, (folder,), 2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_with_synchronised_norms_two_workers_compute_what_one_does(ranks):
    gradient, statistics = step(1, 0, synchronised=True)
    for found in ranks:
        assert float((found[True][0] - gradient).norm() / gradient.norm()) < 1e-9
        assert torch.allclose(found[True][1], statistics, rtol=1e-9)


def test_without_them_each_worker_normalises_by_its_own_samples(ranks):
    gradient, statistics = step(1, 0, synchronised=False)
    (first, own), (second, others) = (found[False] for found in ranks)
    assert torch.equal(first, second)
    assert float((first - gradient).norm() / gradient.norm()) > 0.01
    assert not torch.allclose(own, others)
    assert not torch.allclose(own, statistics)
