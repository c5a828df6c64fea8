"""Parts 6 to 8: compilation, speed and memory of the training step, and input beside it."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch._dynamo

from jobs.accept.checks import Check, Place, at_least, at_most, equal, fact
from jobs.benchmark.scaling.model import WORK, Assumptions
from jobs.benchmark.step.profile import time_shares
from jobs.benchmark.step.variants import JOINTS, Runner, Variant, random_batch, synchronize
from pipeline.data.batch import Batch, network_input
from pipeline.data.synthetic.scene import render_scene
from pipeline.model.arithmetic import arithmetic
from pipeline.model.build import build_network, compile_training
from pipeline.model.cost import network_cost
from pipeline.model.loss import batch_loss
from pipeline.settings import ModelSettings, OptimSettings
from pipeline.settings.ray import RaySettings
from pipeline.training.updater import Updater

# Share of ray.hang_minutes that compiling 8 stacks may take.
_OF_HANG = 0.6


def compilation(place: Place) -> Iterator[Check]:
    """Compare compiled passes with eager ones, and count what should not happen."""
    if not place.is_gpu:
        yield fact("compilation", "checked on a GPU, as a CPU takes minutes for it")
        return
    model = ModelSettings(stacks=1, joints=JOINTS, features=64, order=3, input_px=128)
    batch = random_batch(8, 128).changed(lambda tensor: tensor.to(place.device))
    plain_loss, plain = _passes(model, batch, place.device, compiled=False)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    loss, found = _passes(model, batch, place.device, compiled=True)
    yield at_most("compiled: loss beside eager, relative", abs(loss / plain_loss - 1), 1e-4)
    apart = float((found - plain).norm() / plain.norm())
    yield at_most("compiled: gradients beside eager, relative", apart, 1e-3)
    yield equal("compiled: graph breaks", sum(counters["graph_break"].values()), 0)
    # The stem's two parts, three halvings, residuals on four sizes, and the end of the stack.
    yield equal("compiled: graphs", counters["stats"]["unique_graphs"], 10)
    torch._dynamo.reset()
    began = time.perf_counter()
    optim = OptimSettings(precision="bf16", compile=True, batch_size=8)
    deep = ModelSettings(stacks=8, joints=JOINTS)
    updater = Updater(build_network(deep, 0, place.device).train(), optim, place.device)
    updater.step(random_batch(8, 256).changed(lambda t: t.to(place.device)), 8)
    synchronize(place.device)
    most = _OF_HANG * 60 * RaySettings().hang_minutes
    yield at_most("8 stacks compiled: first step, s", time.perf_counter() - began, most)


def _passes(
    model: ModelSettings, batch: Batch, device: torch.device, *, compiled: bool
) -> tuple[float, torch.Tensor]:
    """Take three passes with an evaluation between; return the last loss and its gradients."""
    network = build_network(model, 0, device, zero_heads=False).train()
    if compiled:
        compile_training(network, device)
    with arithmetic("ieee"):
        for number in range(3):
            network.zero_grad(set_to_none=True)
            heatmaps = network(network_input(batch, device))
            loss = batch_loss(heatmaps, batch.joints, batch.annotated, OptimSettings())
            loss.backward()
            if number == 1:
                with torch.inference_mode():
                    network.eval()(network_input(batch, device))
                network.train()
    grads = [w.grad.ravel() for w in network.parameters() if w.grad is not None]
    return float(loss), torch.cat(grads).clone()


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A network and batch whose speed is measured."""

    stacks: int
    batch: int
    compile: bool = False


def speed(place: Place) -> Iterator[Check]:
    """Measure images/s, launches and memory with the moving average, one network at a time."""
    rows = [_Row(stacks=stacks, batch=batch) for stacks in (1, 2, 8) for batch in (32, 96, 192)]
    rows += [_Row(stacks=1, batch=96, compile=True), _Row(stacks=2, batch=96, compile=True)]
    if not place.is_gpu:
        rows = [_Row(stacks=1, batch=2)]
    for row in rows:
        name = f"{row.stacks} stack{'s' * (row.stacks > 1)}, batch {row.batch}"
        name += ", compiled" * row.compile
        try:
            yield from _measured(place, row, name)
        except torch.cuda.OutOfMemoryError:
            yield fact(name, "does not fit into this GPU's memory")
        if place.is_gpu:
            torch._dynamo.reset()
            torch.cuda.empty_cache()
    variant = Variant(stacks=1, batch=rows[-1].batch, input_px=256 if place.is_gpu else 64)
    for kind, share in time_shares(Runner(variant, place.device), place.device).items():
        yield fact(f"1 stack in fp32, share of {kind}", share)


def _measured(place: Place, row: _Row, name: str) -> Iterator[Check]:
    input_px = 256 if place.is_gpu else 64
    model = ModelSettings(stacks=row.stacks, joints=JOINTS, input_px=input_px)
    optim = OptimSettings(compile=row.compile, ema_samples=1000, batch_size=row.batch)
    updater = Updater(build_network(model, 0, place.device).train(), optim, place.device)
    batch = random_batch(row.batch, input_px).changed(lambda tensor: tensor.to(place.device))
    for step in range(4 if place.is_gpu else 1):
        updater.step(batch, row.batch * (step + 1))
    if place.is_gpu:
        torch.cuda.reset_peak_memory_stats()
    synchronize(place.device)
    steps, began = 10 if place.is_gpu else 1, time.perf_counter()
    for step in range(steps):
        updater.step(batch, row.batch * (step + 10))
    launched_s = (time.perf_counter() - began) / steps
    synchronize(place.device)
    step_s = (time.perf_counter() - began) / steps
    images_per_s = row.batch / step_s
    yield at_least(f"{name}, images/s", images_per_s, 0.01)
    yield fact(f"{name}, ms a step", 1000 * step_s)
    yield fact(f"{name}, ms that the host launches", 1000 * launched_s)
    if place.is_gpu:
        flops = network_cost(model).training_flops
        assumed = Assumptions()
        peak = assumed.matmul_flops_per_s
        share = flops * images_per_s / peak
        yield fact(f"{name}, share of the bf16 peak of {peak / 1e12:g} TFLOP/s", share)
        predicted = 1 / assumed.image_s(WORK[row.stacks], flops)
        yield fact(f"{name}, images/s predicted from bytes for an H100 in eager", predicted)
        yield fact(f"{name}, peak GiB", torch.cuda.max_memory_allocated() / 2**30)


def feeding(place: Place) -> Iterator[Check]:
    """Decode and warp JPEGs on threads, alone and beside training; time launches beside them."""
    scene = cv2.imencode(".jpg", render_scene(0, 0)[0])[1]
    matrix = np.array([[0.8, 0.1, 0.0], [-0.1, 0.8, 0.0]])

    def load() -> None:
        image = cv2.imdecode(scene, cv2.IMREAD_COLOR)
        assert image is not None
        cv2.warpAffine(image, matrix, (256, 256))

    seconds = 2.0 if place.is_gpu else 0.1
    cores = len(os.sched_getaffinity(0))
    cv2.setNumThreads(1)
    alone = _launch_s(place, None, 0)
    yield fact("a tiny operation from Python alone, us", 1e6 * alone)
    for threads in [n for n in (1, 2, 4, 8, 16) if n <= cores] if place.is_gpu else [1]:
        yield at_least(
            f"images decoded and warped a second on {threads} threads",
            _rate(load, threads, seconds),
            1.0,
        )
        beside = _launch_s(place, load, threads)
        yield fact(f"a tiny operation beside {threads} threads, us", 1e6 * beside)
    if place.is_gpu:
        yield from _fed(place, load, min(cores - 1, 8))


def _rate(load: Callable[[], None], threads: int, seconds: float) -> float:
    end = time.perf_counter() + seconds

    def work() -> int:
        done = 0
        while time.perf_counter() < end:
            load()
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        counts = [pool.submit(work) for _ in range(threads)]
        return sum(count.result() for count in counts) / seconds


def _launch_s(place: Place, load: Callable[[], None] | None, threads: int) -> float:
    """Return the seconds that Python takes to launch a tiny operation beside loading threads."""
    over = threading.Event()

    def work() -> None:
        while load is not None and not over.is_set():
            load()

    tiny, number = torch.ones(8, device=place.device), 3000 if place.is_gpu else 300
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for _ in range(threads):
            pool.submit(work)
        synchronize(place.device)
        began = time.perf_counter()
        for _ in range(number):
            tiny.add_(0.0)
        took = time.perf_counter() - began
        over.set()
    synchronize(place.device)
    return took / number


def _fed(place: Place, load: Callable[[], None], threads: int) -> Iterator[Check]:
    """Train two stacks alone, and beside threads that decode as many images as they can."""
    optim = OptimSettings(batch_size=96)
    model = ModelSettings(stacks=2, joints=JOINTS)
    updater = Updater(build_network(model, 0, place.device).train(), optim, place.device)
    batch = random_batch(96, 256).changed(lambda tensor: tensor.to(place.device))
    found = []
    for is_fed in (False, True):
        over = threading.Event()

        def work(over: threading.Event = over) -> None:
            while not over.is_set():
                load()

        with ThreadPoolExecutor(threads) as pool:
            for _ in range(threads * is_fed):
                pool.submit(work)
            for step in range(3):
                updater.step(batch, 96 * (step + 1))
            synchronize(place.device)
            began = time.perf_counter()
            for step in range(20):
                updater.step(batch, 96 * (step + 4))
            synchronize(place.device)
            found.append(20 * 96 / (time.perf_counter() - began))
            over.set()
    yield fact("2 stacks, images/s without decode threads", found[0])
    yield fact(f"2 stacks, images/s beside {threads} decode threads", found[1])
