"""The benchmark of scaling: what it counts, what it predicts, and that its sides train alike."""

from contextlib import contextmanager

import pytest
import torch
from factories import pack_samples, samples

from jobs.benchmark.overhead.data import pack_rendered
from jobs.benchmark.overhead.overhead import check_alike
from jobs.benchmark.overhead.rounds import take_turns
from jobs.benchmark.overhead.turns import Turns
from jobs.benchmark.scaling.fit import fit_ring, overlap, parts_of
from jobs.benchmark.scaling.group import GroupTrainer
from jobs.benchmark.scaling.measure import (
    STACKS,
    ScalingBenchmark,
    assumptions,
    places,
    sides,
    usual_workers,
)
from jobs.benchmark.scaling.model import (
    GPUS,
    LINKS,
    Assumptions,
    Fitted,
    Link,
    all_reduce_s,
    batch_enough,
    buckets,
    exposed_s,
    limit,
    predict,
    table,
)
from jobs.benchmark.scaling.report import scaling_report
from jobs.benchmark.scaling.summary import fitted, summary
from jobs.benchmark.timing import environment
from pipeline.model.cost import Cost
from pipeline.pose.joint_sets import MPII
from pipeline.training.trainer import Task

CPU = torch.device("cpu")
MIB = 2**20
# A byte takes a nanosecond, a hop a million times as long.
LINK = Link(name="slow", bytes_per_s=1e9, hop_s=1e-3)
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


def test_an_all_reduce_takes_its_hops_and_its_bytes():
    # Two buckets; up and down a tree of 8 are six hops; each link carries 14/8 of all bytes.
    latency, transfer = all_reduce_s(8, [3_000_000, 5_000_000], LINK)
    assert latency == pytest.approx(0.012)
    assert transfer == pytest.approx(0.014)


def test_the_backward_pass_hides_no_more_than_it_lasts():
    assert exposed_s(0.1, 0.2, overlap=0.5) == pytest.approx(0.05)
    assert exposed_s(0.3, 0.2, overlap=0.5) == pytest.approx(0.2)


def test_a_step_is_compute_and_what_is_exposed_and_rays_share():
    # A million bytes between two: 2 hops and 1 ms of bytes are 3 ms, of which half is exposed.
    assumed = Assumptions(
        gpu_images_per_s={1: 1000.0}, batch_per_gpu=10, cpus_per_gpu=2, loader_samples_per_s=1000.0
    )
    cost, measured = Cost(parameters=250_000, macs=1), Fitted(overlap=0.5, ray_share=0.08)
    row = predict(1, cost, 2, LINK, assumed, measured)
    times = [row[f"{name}_ms"] for name in ("compute", "all_reduce", "exposed", "loading", "step")]
    assert times == pytest.approx([10.0, 3.0, 1.5, 5.0, 12.5])
    assert row["images_per_s"] == pytest.approx(1600.0)
    assert row["efficiency"] == pytest.approx(0.8)
    # Nothing is exposed, and Ray's share remains.
    assert row["efficiency_at_best"] == pytest.approx(0.92)
    assert (row["stacks"], row["gpus"], row["link"]) == (1, 2, "slow")
    assert row["limit"] == "latency"
    # 1.5 ms are a tenth of a step from 13.5 ms of compute.
    assert row["batch_per_gpu_enough"] == 14


def test_a_slow_loader_is_the_step():
    assumed = Assumptions(
        gpu_images_per_s={1: 1000.0}, batch_per_gpu=10, cpus_per_gpu=1, loader_samples_per_s=500.0
    )
    cost, measured = Cost(parameters=250_000, macs=1), Fitted(overlap=0.5, ray_share=0.0)
    row = predict(1, cost, 2, LINK, assumed, measured)
    assert (row["limit"], row["step_ms"]) == ("input", pytest.approx(20.0))
    assert row["images_per_s"] == pytest.approx(1000.0)


@pytest.mark.parametrize(
    ("exposed_ms", "latency_share", "said"),
    [(0.9, 1.0, "compute"), (1.2, 0.4, "bandwidth"), (1.2, 0.6, "latency")],
)
def test_a_tenth_of_a_step_is_noticed(exposed_ms, latency_share, said):
    assert limit(0.009, exposed_ms / 1000, 0.0, latency_share) == said


def test_one_image_is_enough_where_nothing_is_exposed():
    assert batch_enough(1000.0, 0.0, 0.0) == 1
    # Nothing is hidden: 9 ms of compute to every 1 ms.
    assert batch_enough(1000.0, 0.0011, 0.0) == 10


def test_every_network_is_predicted_on_every_link():
    costs = {stacks: Cost(parameters=1000 * stacks, macs=10**9) for stacks in STACKS}
    settings = ScalingBenchmark(workers=(1,), gpu_images_per_s=(3.0, 2.0, 1.0))
    rows = table(costs, assumptions(settings, costs), Fitted(overlap=0.0, ray_share=0.0))
    assert [row["stacks"] for row in rows[:: len(LINKS) * len(GPUS)]] == [1, 2, 8]
    assert len(rows) == 36
    assert {row["compute_ms"] for row in rows} == {32_000 / 3, 16_000.0, 32_000.0}


def test_what_a_gpu_does_is_assumed_from_the_operations_of_a_network():
    costs = {8: Cost(parameters=1000, macs=10**9)}
    # 3e14 a second, of which an image takes six for each multiply-accumulate.
    assumed = assumptions(ScalingBenchmark(workers=(1,)), costs)
    assert assumed.gpu_images_per_s == {8: pytest.approx(50_000.0)}


# Measurements


def test_a_step_is_taken_apart_by_what_its_time_went_to():
    parts = parts_of(WITHOUT_RAY, WITH_RAY, workers=2)
    assert parts == {"compute": 0.375, "all_reduce": 0.25, "input": 0.125, "ray": 0.25}


def test_a_worker_that_is_alone_exchanges_nothing():
    parts = parts_of(WITHOUT_RAY, WITH_RAY, workers=1)
    assert parts == {"compute": 0.5, "all_reduce": 0.0, "input": 0.125, "ray": 0.375}


def test_hop_and_bandwidth_are_found_again():
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
def test_the_share_that_is_hidden_is_of_what_could_be(alone, exposed, compute, hidden):
    assert overlap(alone, exposed, compute) == pytest.approx(hidden)


def turn(**changes):
    """A round of one worker and two; alone a step under Ray takes half a second."""
    by_bytes = {"3000": 2 * (1e-3 + 1500 / 1e9), "3000000000": 2 * (1e-3 + 1.5)}
    exchange = {"exchange": {"buckets_s": 0.5, "by_bytes_s": by_bytes}}
    return {
        "1 without Ray": WITHOUT_RAY,
        "1 with Ray": WITH_RAY | {"ends": [step / 2 for step in range(9)]},
        "2 without Ray": WITHOUT_RAY | exchange,
        "2 with Ray": WITH_RAY,
    } | changes


def test_the_headline_is_under_ray_and_the_constants_are_of_the_most_workers():
    found = summary([turn()], (1, 2), batch=4)
    assert found["samples_per_s"] == {"1": 8.0, "2": 8.0}
    assert found["efficiency"] == {"1": 1.0, "2": 0.5}
    shares = {"compute": 0.375, "all_reduce": 0.25, "input": 0.125, "ray": 0.25}
    assert found["split"]["2"] == shares
    assert found["rounds"]["2"]["ms"]["ray"]["rounds"] == [250.0]
    constants = found["fitted"]
    assert constants["workers"] == 2
    assert constants["hop_s"] == pytest.approx(1e-3)
    assert constants["all_reduce_alone_ms"]["median"] == 500.0
    # Half of it is hidden, by the 0.25 s that the backward pass lasts.
    assert constants["overlap"] == pytest.approx(1.0)
    assert fitted(found) == Fitted(overlap=1.0, ray_share=0.25)


def test_one_worker_alone_says_nothing_of_overlap_and_noise_is_no_gain():
    fast = WITH_RAY | {"ends": [0.1 * step for step in range(9)]}
    found = summary([turn(**{"1 with Ray": fast})], (1,), batch=4)
    assert found["fitted"]["ray_share"] < 0
    assert fitted(found) == Fitted(overlap=0.0, ray_share=0.0)


def test_sides_that_did_not_train_alike_are_an_error():
    other = turn(**{"2 with Ray": WITH_RAY | {"conditions": {"threads": 2}}})
    with pytest.raises(RuntimeError, match="train under other conditions"):
        summary([turn(), other], (1, 2), batch=4)


def test_every_other_step_is_taken_apart(tmp_path):
    [train] = pack_samples(tmp_path / "train", [samples(8)])
    [val] = pack_samples(tmp_path / "val", [samples(1, first=9)], split="val")
    settings = {
        "model.stacks": 1,
        "model.features": 8,
        "model.joints": 16,
        "model.input_px": 64,
        "optim.batch_size": 2,
    }
    task = Task(settings=settings, joint_set=MPII.to_json(), train=(str(train),), val=(str(val),))
    trainer, turns = GroupTrainer(Turns(tmp_path), task, 0, 1, CPU), Turns(tmp_path)
    entered = []

    @contextmanager
    def no_sync():
        entered.append(trainer.state.progress.steps)
        yield

    trainer.state.network.no_sync = no_sync
    turns.go(0).touch()
    list(trainer.train_epoch(5.0))
    # Before the second step one had been taken, before the fourth three.
    assert entered[:2] == [1, 3]
    assert trainer.state.progress.steps == 4


# The whole


def test_workers_double_up_to_what_the_machine_has():
    assert [usual_workers(most) for most in (1, 2, 6, 8)] == [
        (1,),
        (1, 2),
        (1, 2, 4, 6),
        (1, 2, 4, 8),
    ]


def test_wrong_settings_name_the_option():
    with pytest.raises(ValueError, match="--rounds must be at least 1, got 0"):
        ScalingBenchmark(workers=(1,), rounds=0)
    with pytest.raises(ValueError, match=f"--workers must be from 1 to this machine's {places()}"):
        ScalingBenchmark(workers=(1, places() + 1))
    with pytest.raises(ValueError, match="--gpu-images-per-s must be above 0, got 0 for 2 stacks"):
        Assumptions(gpu_images_per_s={1: 10.0, 2: 0.0})


def test_the_report_says_what_was_measured_and_what_is_assumed():
    found = summary([turn()], (1, 2), batch=4)
    costs = {stacks: Cost(parameters=250_000, macs=10**9) for stacks in STACKS}
    settings = ScalingBenchmark(workers=(1,), rounds=1, gpu_images_per_s=(9000.0, 6000.0, 2000.0))
    assumed = assumptions(settings, costs)
    machine = {"cores": 2, "gpus": 0, "load_average_before": 0.5, "ray": "2.60", "torch": "2.13"}
    told = scaling_report(
        found
        | {
            "model": table(costs, assumed, fitted(found)),
            "assumptions": vars(assumed),
            "machine": machine,
            "settings": {"batch_per_worker": 4, "rounds": 1},
        }
    )
    rows = [line.split() for line in told.splitlines()]
    shares = ["37.5", "%", "25.0", "%", "12.5", "%", "25.0", "%"]
    assert ["2", "8.0", "8.0", "8.0", "0.500", *shares, "1000.0"] in rows
    assert "500.0 ms alone (500.0 to 500.0), 100 % of it hidden" in told
    assert "assumed, not measured: a GPU alone trains 9,000 with 1 stack" in told
    # 32 images at 2,000/s are 16 ms; a million bytes are hidden; Ray takes a quarter.
    row = next(row for row in rows if row[:4] == ["8", "stacks,", "8", "GPUs"])
    assert row[4:7] == ["12,000", "(75-75", "%)"]


@pytest.mark.cluster
@pytest.mark.timeout(600)  # four programs and a cluster start one after another
def test_ranks_train_alike_with_ray_and_without(tmp_path):
    if places() < 2:
        pytest.skip("this machine has room for one worker")
    # More than a shard's people: each worker reads shards of its own.
    settings = ScalingBenchmark(workers=(2,), rounds=1, steps=12, batch_per_worker=2)
    data = tmp_path / "data"
    pack_rendered(data, 60)
    with environment({"OMP_NUM_THREADS": "1"}), sides(settings, (2,), data) as started:
        [_, last] = take_turns(started, settings.rounds)
    plain, with_ray = last["2 without Ray"], last["2 with Ray"]
    check_alike({"plain": plain, "ray": with_ray})
    assert plain["ends"] == sorted(plain["ends"])
    assert 0 < plain["exchange"]["buckets_s"] < plain["seconds"]
    assert sum(parts_of(plain, with_ray, workers=2).values()) == pytest.approx(
        (with_ray["ends"][-1] - with_ray["ends"][4]) / (len(with_ray["ends"]) - 5)
    )
