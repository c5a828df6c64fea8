"""A run in a bucket: driver and workers on machines that share nothing else, without Ray."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from trainers import eventful_task, kept, train_alone

from pipeline.run.checkpoint import WEIGHTS_NAME
from pipeline.run.journal import Journal
from pipeline.run.storage import fetch, fetch_run, folder_here, hold, working
from pipeline.settings import Settings
from pipeline.training.trainer import Task

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("memory_store")]

LOCATION = "s3://bucket/runs/pose"


def train_in_bucket(task: Task, driver: Path, worker: Path) -> None:
    """Train on one machine for a driver on another, as Ray would let them."""
    ray = replace(Settings.from_flat(task.settings).ray, scratch=str(driver))
    fetch_run(ray)
    there = replace(ray, scratch=str(worker))
    with hold(folder_here(ray, ""), "run pose") as writer:
        journal = Journal(folder_here(ray, ""), writer=writer)
        journal.tags({"driver": driver.name})
        writer.turns.hand_over()
        with working(there, folder_here(there, ""), writer.owner) as first:
            train_alone(task, folder_here(there, ""), first)
        writer.turns.take_back()
        journal.end("FINISHED")


def test_a_run_resumes_from_the_bucket_alone_to_the_weights_of_one_on_a_disk(tmp_path):
    whole = eventful_task(tmp_path, 1)
    train_alone(whole, tmp_path / "disk")
    stored = {"ray.storage": "s3://bucket/runs", "ray.name": "pose"}
    task = replace(whole, settings=whole.settings | stored)
    part = replace(task, settings=task.settings | {"optim.epochs": 1})
    train_in_bucket(part, tmp_path / "driver", tmp_path / "worker")
    train_in_bucket(task, tmp_path / "other driver", tmp_path / "other worker")
    found = fetch(LOCATION, str(tmp_path / "reader"), is_light=False)
    assert kept(found) == kept(tmp_path / "disk")
    last = kept(found)[-1]
    weights, expected = (
        load_file(place / last / WEIGHTS_NAME) for place in (found, tmp_path / "disk")
    )
    assert all(weights[name].equal(expected[name]) for name in expected)
    entries = Journal(found).entries()
    assert [e.content["tags"]["driver"] for e in entries if e.kind == "tags"] == [
        "driver",
        "other driver",
    ]
    assert [e.content["step"] for e in entries if e.kind == "metrics"] == [1, 2, 3]
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
