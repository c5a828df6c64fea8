"""Metrics of an epoch, without a cluster."""

import pytest
import torch
from factories import pack_samples, samples

from pipeline.pose.joint_sets import COCO, MPII
from pipeline.pose.person import Visibility
from pipeline.training.metrics import beside_metrics, evaluated_metrics, with_glance
from pipeline.training.trainer import Task, Trainer


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
    beside = beside_metrics(trainer, evaluation)
    if not ema_samples:
        assert beside == {}
        return
    assert sorted(beside) == ["ema/pckh_0.5", "ema/val_loss", "raw/pckh_0.5", "raw/val_loss"]
    assert beside["ema/pckh_0.5"] == metrics["pckh_0.5"]
    assert beside["ema/val_loss"] == metrics["val_loss"]
    raw = trainer.evaluate("raw")
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


def test_average_precision_is_among_an_epochs_metrics_where_sigmas_and_areas_are_known(tmp_path):
    people = {
        "joints": ((20.0, 30.0),) * 17,
        "visibility": (Visibility.VISIBLE,) * 17,
        "area": 900.0,
        "box": (10.0, 20.0, 30.0, 40.0),
    }
    [train] = pack_samples(tmp_path / "train", [samples(2, **people)], joint_set=COCO)
    settings = {
        "model.stacks": 1,
        "model.features": 8,
        "model.joints": 17,
        "model.input_px": 64,
        "optim.batch_size": 2,
        "evaluation.measure": "pck_box",
    }
    task = Task(settings=settings, joint_set=COCO.to_json(), train=(str(train),), val=(str(train),))
    trainer = Trainer(task, 0, 1, torch.device("cpu"))
    metrics = evaluated_metrics(trainer, *trainer.evaluate_people())
    # People of 900 square pixels are neither medium nor large.
    assert {name for name in metrics if name.startswith("coco")} == {
        *("coco_ap", "coco_ap_50", "coco_ap_75", "coco_ar", "coco_ar_50", "coco_ar_75")
    }
