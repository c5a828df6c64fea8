"""The benchmark of scaling: its figures, its prediction, and equal training of the variants."""

from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch
from factories import pack_samples, samples
from trainers import task_of

from jobs.benchmark.overhead.overhead import check_alike
from jobs.benchmark.rounds.data import pack_rendered
from jobs.benchmark.rounds.group import GroupTrainer, buckets
from jobs.benchmark.rounds.processes import RoundFiles, run_rounds
from jobs.benchmark.scaling.model import (
    GPUS,
    LINKS,
    WORK,
    Assumptions,
    Work,
    predict,
    table,
    two_digits,
)
from jobs.benchmark.scaling.report import scaling_report
from jobs.benchmark.scaling.scaling import ScalingBenchmark, default_workers, most_workers, variants
from jobs.benchmark.scaling.summary import fit_ring, overlap, parts_of, summary
from jobs.benchmark.timing import environment
from pipeline.model.cost import Cost

CPU = torch.device("cpu")
MIB = 2**20
# Five steps that don't count, then one apart, one together, one apart, one together.
WITHOUT_RAY = {
    "ends": [1.0, 2.0, 3.0, 4.0, 5.0, 5.5, 6.25, 6.75, 7.5],
    "waited_s": [0.0, 0.0, 0.0, 0.0, 0.0, 0.125, 0.25, 0.375, 0.5],
    "conditions": {"threads": 1},
}
WITH_RAY = WITHOUT_RAY | {"ends": [float(step) for step in range(1, 10)]}


# The model


def test_gradients_are_cut_as_ddp_cuts_them():
    assert buckets(100) == [400]
    assert buckets(10_000_000) == [MIB, 25 * MIB, 40_000_000 - 26 * MIB]


# A GPU that moves 1 GB/s and computes 1 TFLOP/s, in a node whose cores load 500 samples/s.
SLOW = Assumptions(
    copy_bytes_per_s=2e9,
    of_copy=0.5,
    matmul_flops_per_s=4e12,
    of_matmul=0.25,
    launch_s=1e-4,
    batch_per_gpu=10,
    cpus_per_gpu=2,
    loader_samples_per_s=250.0,
    lock_s=1e-3,
)
# Convolutions move bytes for 2 ms or compute for 3 ms an image; the rest moves bytes for 1 ms.
WORKLOAD = Work(convolution_bytes=2e6, other_bytes=1e6, kernels=300)


def test_an_image_takes_its_bytes_or_the_operations_of_its_convolutions():
    assert SLOW.image_s(WORKLOAD, 3e9) == pytest.approx(0.004)
    assert SLOW.image_s(WORKLOAD, 1e9) == pytest.approx(0.003)


def predicted(parameters: int = 1_000_000, **changes) -> dict:
    """A step on eight GPUs, whose links carry 14/8 of 4 MB of gradients at 1.25 GB/s: 5.6 ms."""
    cost = Cost(parameters=parameters, macs=500_000_000)
    return predict(WORKLOAD, cost, 8, "10 Gbit/s", replace(SLOW, **changes))


def test_a_step_is_the_gpu_and_the_exposed_all_reduce():
    row = predicted(batch_per_gpu=20)
    times = [row[f"{name}_ms"] for name in ("gpu", "launch", "all_reduce", "loading", "step")]
    # 20 images of 4 ms; 300 launches of 0.1 ms; 20 samples of two cores.
    assert times == [80.0, 30.0, 5.6, 40.0, 86.0]
    # 160 images in 85.6 ms, or in 80 where all is hidden.
    assert (row["images_per_s"], row["images_per_s_at_best"]) == (1900.0, 2000.0)
    assert (row["efficiency"], row["efficiency_at_best"]) == (0.93, 1.0)
    assert (row["gpus"], row["link"], row["limit"]) == (8, "10 Gbit/s", "gpu")
    # 5.6 ms are a tenth of a step from 50.4 ms of computing on: 12.6 images.
    assert row["batch_per_gpu_enough"] == 13.0


@pytest.mark.parametrize(
    ("changes", "step_ms", "limit"),
    [
        ({"launch_s": 2e-4}, 66.0, "launches"),
        # A single core, or Python's lock.
        ({"cpus_per_gpu": 1, "loader_samples_per_s": 125.0}, 80.0, "input"),
        ({"lock_s": 9e-3}, 90.0, "input"),
        # 5.6 ms are more than a tenth of 45.6.
        ({}, 46.0, "link"),
    ],
)
def test_the_first_limit_is_named(changes, step_ms, limit):
    row = predicted(**changes)
    assert (row["step_ms"], row["limit"]) == (step_ms, limit)


def test_a_backward_pass_hides_no_more_than_it_lasts():
    # 560 ms of bytes beside 40 ms of computing, two thirds of which can hide some.
    row = predicted(parameters=100_000_000)
    assert row["step_ms"] == 600.0
    assert row["images_per_s_at_best"] == two_digits(80 / (0.6 - 0.04 * 2 / 3))


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """The prediction of every network, number of GPUs and link."""
    return table(Assumptions())


@pytest.mark.slow
def test_every_network_is_predicted_on_every_link_in_two_digits(rows):
    assert [row["stacks"] for row in rows[:: len(LINKS) * len(GPUS)]] == list(WORK) == [1, 2, 8]
    assert len(rows) == 36
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert all(value == two_digits(value) for value in numbers)
    # The limit of an H100's memory with 85% of 3 TB/s and 3.8 GB an image: 670 images/s.
    [row] = [row for row in rows if (row["stacks"], row["gpus"], row["link"]) == (8, 8, "NVLink")]
    assert (row["images_per_s"], row["images_per_s_at_best"]) == (5300.0, 5400.0)


# Measurements


def test_a_step_is_split_into_the_parts_of_its_time():
    parts = parts_of(WITHOUT_RAY, WITH_RAY, workers=2)
    assert parts == {"compute": 0.375, "all_reduce": 0.25, "input": 0.125, "ray": 0.25}


def test_a_worker_that_is_alone_exchanges_nothing():
    parts = parts_of(WITHOUT_RAY, WITH_RAY, workers=1)
    assert parts == {"compute": 0.5, "all_reduce": 0.0, "input": 0.125, "ray": 0.375}


def test_latency_and_bandwidth_are_recovered_by_the_fit():
    # Three workers: four hops, with a third of the bytes in each.
    taken = {size: 4 * (1e-3 + size / 3 / 1e9) for size in (3000, 300_000, 3_000_000_000)}
    found = fit_ring(taken, workers=3)
    assert found["hop_s"] == pytest.approx(1e-3)
    assert found["bytes_per_s"] == pytest.approx(1e9)


@pytest.mark.parametrize(
    ("alone", "exposed", "compute", "hidden"),
    [
        (0.01, 0.004, 0.03, 0.6),
        # Longer than the 0.02 s of the backward pass, which hide half of what they could.
        (0.04, 0.03, 0.03, 0.5),
        (0.01, 0.011, 0.03, 0.0),
        (0.01, -0.001, 0.03, 1.0),
    ],
)
def test_the_hidden_share_is_of_the_part_that_can_be_hidden(alone, exposed, compute, hidden):
    assert overlap(alone, exposed, compute) == pytest.approx(hidden)


def measured(**changes):
    """A round of one worker and two; alone a step under Ray takes half a second."""
    by_bytes = {"3000": 2 * (1e-3 + 1500 / 1e9), "3000000000": 2 * (1e-3 + 1.5)}
    exchange = {"exchange": {"buckets_s": 0.5, "by_bytes_s": by_bytes}}
    return {
        "1 without Ray": WITHOUT_RAY,
        "1 with Ray": WITH_RAY | {"ends": [step / 2 for step in range(9)]},
        "2 without Ray": WITHOUT_RAY | exchange,
        "2 with Ray": WITH_RAY,
    } | changes


def test_speed_is_under_ray_and_the_exchange_is_of_the_most_workers():
    found = summary([measured()], (1, 2), batch=4)
    assert found["samples_per_s"] == {"1": 8.0, "2": 8.0}
    assert found["efficiency"] == {"1": 1.0, "2": 0.5}
    shares = {"compute": 0.375, "all_reduce": 0.25, "input": 0.125, "ray": 0.25}
    assert found["split"]["2"] == shares
    assert found["rounds"]["2"]["ms"]["ray"]["rounds"] == [250.0]
    exchange = found["exchange"]
    assert exchange["workers"] == 2
    assert exchange["hop_s"] == pytest.approx(1e-3)
    assert exchange["all_reduce_alone_ms"]["median"] == 500.0
    # Half of it is hidden, by the 0.25 s that the backward pass lasts.
    assert exchange["overlap"]["median"] == pytest.approx(1.0)


def test_one_worker_alone_has_no_exchange():
    found = summary([measured()], (1,), batch=4)
    assert found["exchange"] == {}
    assert list(found["rounds"]) == ["1"]


def test_variants_that_did_not_train_alike_are_an_error():
    other = measured(**{"2 with Ray": WITH_RAY | {"conditions": {"threads": 2}}})
    with pytest.raises(RuntimeError, match="train under other conditions"):
        summary([measured(), other], (1, 2), batch=4)


def test_every_other_step_keeps_its_gradients(tmp_path):
    [train] = pack_samples(tmp_path / "train", [samples(8)])
    [val] = pack_samples(tmp_path / "val", [samples(1, first=9)], split="val")
    task = task_of([train], [val])
    files = RoundFiles(tmp_path)
    trainer = GroupTrainer(files, task, 0, 1, CPU)
    entered = []

    @contextmanager
    def no_sync():
        entered.append(trainer.state.progress.steps)
        yield

    trainer.state.network.no_sync = no_sync
    files.go(0).touch()
    list(trainer.train_epoch(5.0))
    # Before the second step one had been taken, before the fourth three.
    assert entered[:2] == [1, 3]
    assert trainer.state.progress.steps == 4


# The whole


def test_workers_double_up_to_the_machines_limit():
    assert [default_workers(most) for most in (1, 2, 6, 8)] == [
        (1,),
        (1, 2),
        (1, 2, 4, 6),
        (1, 2, 4, 8),
    ]


def test_wrong_settings_name_the_option():
    with pytest.raises(ValueError, match="--rounds must be at least 1, got 0"):
        ScalingBenchmark(workers=(1,), rounds=0)
    with pytest.raises(
        ValueError, match=f"--workers must be from 1 to this machine's {most_workers()}"
    ):
        ScalingBenchmark(workers=(1, most_workers() + 1))


def test_the_report_has_measurements_and_assumptions(rows):
    machine = {"cores": 2, "gpus": 0, "load_average": 0.5, "ray": "2.60", "torch": "2.13"}
    text = scaling_report(
        summary([measured()], (1, 2), batch=4)
        | {
            "predicted": rows,
            "assumptions": asdict(Assumptions()),
            "machine": machine,
            "settings": {"batch_per_worker": 4, "rounds": 1},
        }
    )
    lines = [line.split() for line in text.splitlines()]
    shares = ["37.5%", "25.0%", "12.5%", "25.0%"]
    assert ["2", "8.0", "8.0", "8.0", "0.500", *shares, "1000.0"] in lines
    assert "500.0 ms alone (500.0 to 500.0), the backward pass hides\n100% of it" in text
    assert "PREDICTED, NOT MEASURED" in text
    assert "an H100 copies 3 TB/s, of which training reaches 85%" in text
    [line] = [line for line in lines if line[:4] == ["8", "stacks,", "64", "GPUs"]]
    assert line[4:7] == ["9,900-12,000", "(23-27%)", "link"]
    assert "8 stacks on 64 GPUs: 970 over 10 Gbit/s, 390 over 25 Gbit/s" in text


@pytest.mark.cluster
@pytest.mark.timeout(600)  # four programs and a cluster start one after another
def test_ranks_train_alike_with_ray_and_without(tmp_path, monkeypatch):
    if most_workers() < 2:
        pytest.skip("this machine has room for one worker")
    tiny = {"model.features": 8, "model.order": 2, "model.input_px": 64}
    monkeypatch.setattr("jobs.benchmark.scaling.scaling._NETWORK", {"model.stacks": 1})
    monkeypatch.setattr("jobs.benchmark.scaling.scaling._ON_CPU", tiny)
    # More than a shard's people: each worker reads shards of its own. One step is left to be
    # apart and one together, after the five that don't count.
    settings = ScalingBenchmark(workers=(2,), rounds=1, steps=7, batch_per_worker=3)
    data = tmp_path / "data"
    pack_rendered(data, 42)
    with environment({"OMP_NUM_THREADS": "1"}), variants(settings, (2,), data) as started:
        [_, last] = run_rounds(started, settings.rounds)
    plain, with_ray = last["2 without Ray"], last["2 with Ray"]
    check_alike({"plain": plain, "ray": with_ray})
    assert plain["ends"] == sorted(plain["ends"])
    assert 0 < plain["exchange"]["buckets_s"] < plain["seconds"]
    assert sum(parts_of(plain, with_ray, workers=2).values()) == pytest.approx(
        (with_ray["ends"][-1] - with_ray["ends"][4]) / (len(with_ray["ends"]) - 5)
    )
