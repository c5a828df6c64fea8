"""Parts 9 and 10: a network learns people it has not seen, and a process group of one rank."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined]

from jobs.accept.checks import Check, Place, at_least, at_most, equal, fact
from pipeline.data.batch import Batch, network_input
from pipeline.data.prefetch import prefetch
from pipeline.data.synthetic.scene import render_scene
from pipeline.evaluation.metrics import joint_counts, normalised_errors
from pipeline.model.arithmetic import arithmetic
from pipeline.model.build import build_network
from pipeline.model.decoding import decode, predicted_heatmaps
from pipeline.pose.geometry import heatmap_from_input, input_from_original, transform
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Visibility
from pipeline.settings import ModelSettings, OptimSettings
from pipeline.training.step import set_learning_rate
from pipeline.training.updater import Updater

_BATCH = 32


class _People(NamedTuple):
    """Rendered people as a batch, and their head sizes in heatmap pixels."""

    batch: Batch
    head_sizes: np.ndarray


def learning(place: Place) -> Iterator[Check]:
    """Train on rendered people and count PCKh on others; memory must not grow meanwhile."""
    model = ModelSettings(
        stacks=1,
        joints=len(MPII.joints),
        features=64 if place.is_gpu else 16,
        order=4 if place.is_gpu else 3,
        input_px=128 if place.is_gpu else 64,
    )
    number, others = (6000, 500) if place.is_gpu else (32, 16)
    train = rendered(0, number, model.input_px)
    test = rendered(number, others, model.input_px)
    optim = OptimSettings(
        optimizer="adamw",
        learning_rate=2e-3,
        target_peak=10.0,
        batch_size=_BATCH if place.is_gpu else 8,
        ema_samples=5000 if place.is_gpu else 64,
    )
    updater = Updater(build_network(model, 0, place.device).train(), optim, place.device)
    random, losses, held = np.random.default_rng(0), [], [0.0, 0.0]
    began, seconds = time.perf_counter(), 60 * place.minutes
    size = optim.batch_size

    def batches() -> Iterator[Batch]:
        while True:
            yield _turned(train.batch.rows(random.permutation(number)[:size]), random)

    for step, batch in enumerate(prefetch(batches(), place.device)):
        done = (time.perf_counter() - began) / seconds if place.is_gpu else step / 40
        if done >= 1:
            break
        warm = min(1, (step + 1) / (50 if place.is_gpu else 5))
        rate = optim.learning_rate * warm * (1 + math.cos(math.pi * done)) / 2
        set_learning_rate(updater.optimizer, rate)
        losses.append(updater.step(batch, size * (step + 1)).loss)
        if place.is_gpu and step in (100, 200):
            held[step > 100] = torch.cuda.memory_allocated()
    yield fact("steps", float(len(losses)))
    first, last = (float(torch.stack(part).mean()) for part in (losses[:10], losses[-10:]))
    yield at_most("loss of the last 10 steps over that of the first 10", last / first, 0.95)
    assert updater.average is not None
    found = _pckh(updater.average.network, test, place)
    yield at_least("PCKh@0.5 on other people", found, 90.0 if place.is_gpu else 1.0)
    if place.is_gpu:
        yield at_most("memory after step 200 over that after step 100", held[1] / held[0], 1.01)


def rendered(first: int, number: int, input_px: int) -> _People:
    """Render the first person of each scene, framed as in training."""

    def one(index: int) -> tuple[np.ndarray, np.ndarray, list[bool], float]:
        scene, [person, *_] = render_scene(0, index)
        matrix = input_from_original(person.center, person.scale, input_px)
        to_heatmap = heatmap_from_input() @ matrix
        return (
            cv2.warpAffine(scene, matrix[:2], (input_px, input_px)),
            transform(np.array(person.joints), to_heatmap),
            [state is not Visibility.MISSING for state in person.visibility],
            (person.head_size or math.nan) * float(np.hypot(*to_heatmap[:2, 0])),
        )

    with ThreadPoolExecutor() as pool:
        images, joints, shown, sizes = zip(
            *pool.map(one, range(first, first + number)), strict=True
        )
    batch = Batch(
        images=torch.from_numpy(np.stack(images)),
        joints=torch.from_numpy(np.stack(joints).astype(np.float32)),
        annotated=torch.tensor(shown),
        gains=torch.ones(number, 3),
        positions=np.arange(number),
    )
    return _People(batch, np.array(sizes))


def _turned(batch: Batch, random: np.random.Generator) -> Batch:
    """Mirror a half of the batches, and vary their colours."""
    gains = torch.from_numpy(random.uniform(0.8, 1.2, (len(batch), 3)).astype(np.float32))
    batch = Batch(**(vars(batch) | {"gains": gains}))
    if random.random() < 0.5:
        return batch
    order, joints = list(MPII.mirror), batch.joints.clone()
    joints[..., 0] = batch.images.shape[2] / 4 - 1 - joints[..., 0]
    changes = {
        "images": batch.images.flip(2),
        "joints": joints[:, order],
        "annotated": batch.annotated[:, order],
    }
    return Batch(**(vars(batch) | changes))


def _pckh(network: nn.Module, people: _People, place: Place) -> float:
    """Return the percentage of joints within half a head size, with the flip test."""
    found = []
    with torch.inference_mode(), arithmetic("ieee"):
        for start in range(0, len(people.batch), 50):
            rows = people.batch.rows(slice(start, start + 50))
            images = network_input(rows, place.device)
            predicted = network.eval()(images)
            maps = predicted_heatmaps(network, images, predicted, "mse", MPII.mirror)[-1]
            found.append(decode(maps, "quarter", 1.75)[0].double().cpu().numpy())
    errors = normalised_errors(
        np.concatenate(found),
        people.batch.joints.double().numpy(),
        people.batch.annotated.numpy(),
        people.head_sizes,
    )
    counts = joint_counts(errors)
    return 100 * float(counts.correct[50].sum() / counts.annotated.sum())


def group(place: Place) -> Iterator[Check]:
    """Start a process group of one rank, sum, synchronise BatchNorm, and end it."""
    backend = "nccl" if place.is_gpu else "gloo"
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        value = torch.full((4,), 2.0, device=place.device)
        dist.all_reduce(value)
        yield equal(f"sum over one rank by {backend}", float(value.sum()), 8.0)
        if place.is_gpu:
            plain = nn.BatchNorm2d(4).to(place.device)
            synced = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm2d(4)).to(place.device)
            images = torch.randn(8, 4, 16, 16, device=place.device)
            apart = float((plain(images) - synced(images)).abs().max())
            yield at_most("SyncBatchNorm of one rank beside BatchNorm", apart, 1e-5)
    finally:
        dist.destroy_process_group()
    yield equal("the group has ended", str(dist.is_initialized()), "False")
