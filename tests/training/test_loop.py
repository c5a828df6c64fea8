"""Metrics of an epoch, without a cluster."""

from dataclasses import replace

import pytest
import torch
from factories import BIRD, pack_samples, samples

from pipeline.evaluation.oks import precision_of
from pipeline.pose.joint_sets import COCO, MPII, OKS
from pipeline.pose.person import Visibility
from pipeline.training.metrics import beside_metrics, evaluated_metrics, with_glance
from pipeline.training.trainer import Task, Trainer

SMALL = {"model.stacks": 1, "model.features": 8, "model.input_px": 64, "optim.batch_size": 2}


@pytest.mark.parametrize("ema_samples", [0, 1000])
def test_the_average_gives_the_primary_metric_and_raw_metrics_stand_beside_it(
    tmp_path, ema_samples
):
    settings = {
        "model.stacks": 1,
        "model.features": 8,
        "model.joints": 16,
        "model.input_px": 64,
        "optim.batch_size": 2,
        "optim.learning_rate": 1e-2,
        "optim.target_peak": 10.0,
        "optim.ema_samples": ema_samples,
    }
    [train] = pack_samples(tmp_path / "train", [samples(40)])
    [val] = pack_samples(tmp_path / "val", [samples(3, first=50)], split="val")
    task = Task(settings=settings, joint_set=MPII.to_json(), train=(str(train),), val=(str(val),))
    trainer = Trainer(task, 0, 1, torch.device("cpu"))
    list(trainer.train_epoch(1e9))
    evaluation, results = trainer.evaluate_people()
    metrics = evaluated_metrics(trainer, evaluation, results)
    beside = beside_metrics(trainer, metrics)
    if not ema_samples:
        assert beside == {}
        return
    assert sorted(beside) == ["ema/pckh_0.5", "ema/val_loss", "raw/pckh_0.5", "raw/val_loss"]
    assert beside["ema/pckh_0.5"] == metrics["pckh_0.5"]
    assert beside["ema/val_loss"] == metrics["val_loss"]
    raw = trainer.evaluate_people("raw")[0]
    assert beside["raw/val_loss"] == raw.loss_sum / raw.people
    assert beside["raw/val_loss"] != beside["ema/val_loss"]


def test_the_primary_metric_and_the_losses_lead_an_epochs_metrics():
    measure = MPII.measure("pckh")
    metrics = {"epoch": 2.0, "val_loss": 3.0, "pckh_0.1": 4.0, "pckh_0.5": 5.0}
    found = with_glance(measure, metrics)
    assert found == metrics | {"at_a_glance/pckh_0.5": 5.0, "at_a_glance/val_loss": 3.0}
    assert next(iter(found)) == "at_a_glance/pckh_0.5"
    # The groups of charts of a run whose weights have a moving average, in MLflow's order.
    groups = {name.rpartition("/")[0] for name in (*found, "ema/val_loss", "pck_torso_0.2/neck")}
    assert min(groups - {""}) == "at_a_glance"


def test_average_precision_is_the_primary_metric_of_joints_that_are_measured_by_oks(tmp_path):
    bird = replace(BIRD, measures=(OKS,), sigmas=(0.5, 0.5, 0.5))
    sized = {"joint_set": bird, "area": 2500.0}
    [train] = pack_samples(tmp_path / "train", [samples(16, **sized)], joint_set=bird)
    settings = SMALL | {
        "model.joints": 3,
        "optim.ema_samples": 8,
        "optim.learning_rate": 1e-2,
    }
    task = Task(settings=settings, joint_set=bird.to_json(), train=(str(train),), val=(str(train),))
    trainer = Trainer(task, 0, 1, torch.device("cpu"))
    list(trainer.train_epoch(1e9))
    metrics = evaluated_metrics(trainer, *trainer.evaluate_people())
    assert trainer.measure.metric_name == "coco_ap"
    # No distance within a frame of 100 pixels is far for a sigma of 25.
    assert 0 < metrics["coco_ap"] <= 100
    assert 0 < metrics["oks_0.5/beak"] <= 100
    beside = beside_metrics(trainer, metrics)
    assert sorted(beside) == ["ema/coco_ap", "ema/val_loss", "raw/coco_ap", "raw/val_loss"]
    assert beside["ema/coco_ap"] == metrics["coco_ap"]
    raw = precision_of(trainer.evaluate_people("raw")[1], bird)
    assert beside["raw/coco_ap"] == raw.ap
    assert next(iter(with_glance(trainer.measure, metrics))) == "at_a_glance/coco_ap"


def test_average_precision_is_among_an_epochs_metrics_where_sigmas_and_areas_are_known(tmp_path):
    people = {
        "joints": ((20.0, 30.0),) * 17,
        "visibility": (Visibility.VISIBLE,) * 17,
        "area": 900.0,
        "box": (10.0, 20.0, 30.0, 40.0),
    }
    [train] = pack_samples(tmp_path / "train", [samples(2, **people)], joint_set=COCO)
    settings = SMALL | {"model.joints": 17, "evaluation.measure": "pck_box"}
    task = Task(settings=settings, joint_set=COCO.to_json(), train=(str(train),), val=(str(train),))
    trainer = Trainer(task, 0, 1, torch.device("cpu"))
    metrics = evaluated_metrics(trainer, *trainer.evaluate_people())
    # People of 900 square pixels are neither medium nor large.
    assert {name for name in metrics if name.startswith("coco")} == {
        *("coco_ap", "coco_ap_50", "coco_ap_75", "coco_ar", "coco_ar_50", "coco_ar_75")
    }
