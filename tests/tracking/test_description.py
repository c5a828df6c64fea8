"""A run's description and provenance."""

import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from factories import packed, settings_of

from jobs.train import Arguments
from pipeline.model.cost import Cost
from pipeline.run.metadata import versions
from pipeline.run.plan import SUBMITTED, plan_training
from pipeline.run.provenance import device_name, origin
from pipeline.settings import Settings
from pipeline.settings.cli import parse
from pipeline.tracking.description import command, describe_run, run_spec


def test_a_note_describes_a_run_and_how_to_repeat_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = packed(tmp_path)
    plan = plan_training(settings_of(folder, **{"ray.name": "mine", "optim.epochs": 2}))
    paragraphs = describe_run(
        plan, Cost(parameters=12_345, macs=1_234_000_000), "PCKh@0.5 12.50"
    ).split("\n\n")
    assert [paragraphs[0], paragraphs[2]] == [
        "**Best: PCKh@0.5 12.50**",
        "Stacked hourglass: 1 x 1 (stacks x modules) of 8 features, 16 joints, input of 64 px; "
        "12,345 parameters, 1.23 GMAC per image.",
    ]
    assert paragraphs[3].startswith("Data: made, joint set mpii; 6 people to train on (`")
    assert paragraphs[4:] == [
        "Recipe: rmsprop, learning rate 0.00025, constant; mse; batches of 6, 2 epochs.",
        "Workers: 1, each with 1 CPUs.\n",
    ]
    assert paragraphs[1] == (
        f"    python -m jobs.train --data.train '{folder}/train/*.tar' "
        f"--data.val '{folder}/val/*.tar' --model.stacks 1 --model.features 8 "
        f"--model.input-px 64 --optim.epochs 2 --ray.storage {tmp_path}/runs --ray.name mine "
        f"--tracking.uri sqlite:///{tmp_path}/mlflow.db"
    )


def test_the_command_of_a_note_gives_its_settings_again():
    settings = Settings.from_flat(
        {
            "data.train": "a b/*.tar",
            "evaluation.flip_test": False,
            "optim.sync_batchnorm": True,
            "ray.workers": "1:2",
            "ray.gpus_per_worker": 1.0,
        }
    )
    words = shlex.split(command(settings))
    assert words[:3] == ["python", "-m", "jobs.train"]
    assert parse(Arguments, None, words[3:]).settings == settings


def test_a_note_hides_secrets():
    uri = "http://me:secret@host:5000"
    assert "secret" not in command(Settings.from_flat({"tracking.uri": uri}))


def test_a_run_names_its_data_and_the_command_that_began_it(tmp_path, monkeypatch):
    folder = packed(tmp_path)
    plan = plan_training(settings_of(folder))
    spec = run_spec(plan)
    assert spec.datasets == [
        {
            "name": "made-train",
            "digest": plan.train.checksum[:12],
            "source": f"{folder}/train/*.tar",
            "people": "6",
            "context": "training",
        },
        {
            "name": "made-val",
            "digest": plan.val.checksum[:12],
            "source": f"{folder}/val/*.tar",
            "people": "2",
            "context": "validation",
        },
    ]

    def source(parent: str = "") -> list[str]:
        tags = run_spec(plan, parent).tags
        return [tags[f"mlflow.source.{name}"] for name in ("name", "type")]

    assert source() == ["jobs.train", "LOCAL"]
    assert source("sweep") == ["tune.sweep", "LOCAL"]
    monkeypatch.setenv(SUBMITTED, "{}")
    assert source() == ["jobs.train", "JOB"]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A git checkout with one commit."""
    (tmp_path / "code.py").write_text("1\n")
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    for words in (["init", "-q"], ["add", "code.py"], [*who, "commit", "-qm", "Begin"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


def test_a_checkout_is_named_by_its_commit_and_whether_it_has_changed(checkout):
    head = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    clean = origin(checkout)
    assert clean["mlflow.source.git.commit"] == head.stdout.strip()
    assert clean["mlflow.source.git.dirty"] == "false"
    (checkout / "code.py").write_text("2\n")
    assert origin(checkout) == clean | {"mlflow.source.git.dirty": "true"}


def test_an_installed_package_has_versions_and_no_commit(checkout, tmp_path_factory, monkeypatch):
    alone = {f"version.{name}": version for name, version in versions().items()}
    within = checkout / "site-packages"
    within.mkdir()
    assert origin(within) == alone
    assert origin(tmp_path_factory.mktemp("none")) == alone
    monkeypatch.setenv("PATH", "")
    assert origin(checkout) == alone


def test_a_cpu_is_named_with_its_cores():
    assert device_name(torch.device("cpu")).endswith(" cores")
