"""Experiments of the page on fidelity, on a few people and tiny networks."""

import json
from typing import get_args

import pytest
from factories import checkpoint, packed

import jobs.fidelity.__main__
from jobs.fidelity import recipes
from jobs.fidelity.__main__ import Experiment
from jobs.fidelity.recipes import EXPERIMENTS, RecipesExperiment, measure_recipes, recipes_report
from jobs.fidelity.views import ViewsExperiment, measure_views, views_report

TINY = {
    "model.stacks": 1,
    "model.features": 8,
    "model.order": 3,
    "model.input_px": 64,
    "optim.batch_size": 2,
    "optim.epochs": 1,
    "optim.precision": "fp32",
}


def test_a_better_jpeg_differs_less_from_none(tmp_path):
    checkpoint(tmp_path / "c")
    result = measure_views(
        ViewsExperiment(checkpoint=tmp_path / "c", people=3, scales=(0.5, 3.0), person_px=96)
    )
    rows = {(row["scale"], row["quality"]): row["rms"] for row in result["rows"]}
    for scale in (0.5, 3.0):
        assert 0 < rows[scale, 95] < rows[scale, 90] < 10
    assert views_report(result).startswith("0.5 pixels an input pixel, JPEG 90: rms ")


def test_each_variant_is_trained_from_each_seed(tmp_path, monkeypatch):
    folder = packed(tmp_path)
    tiny = recipes.Experiment(
        common=TINY | {"model.supervision": "inside"},
        variants={"weighed": {}, "doubled": {}, "averaged": {"optim.ema_samples": 2}},
        scale_weights={"doubled": lambda scale: 2 * scale**2},
    )
    monkeypatch.setitem(EXPERIMENTS, "tiny", tiny)
    result = measure_recipes(
        RecipesExperiment(
            name="tiny",
            train=str(folder / "train" / "*.tar"),
            val=str(folder / "val" / "*.tar"),
            seeds=2,
        )
    )
    runs = {(run["variant"], run["seed"]): run["epochs"] for run in result["runs"]}
    assert len(runs) == 6
    for seed in (0, 1):
        [weighed], [doubled], [averaged] = (runs[name, seed] for name in tiny.variants)
        assert doubled["first_loss"] == pytest.approx(2 * weighed["first_loss"])
        assert averaged["first_loss"] == weighed["first_loss"]
        assert "raw/pckh_0.5" in averaged
        assert "raw/pckh_0.5" not in weighed
    head, _, *rows = recipes_report(result).splitlines()
    assert head == "| variant | first loss | accuracy | finer | flat |"
    assert [row.split(" | ")[0] for row in rows] == ["| weighed", "| doubled", "| averaged"]


def test_the_command_knows_every_experiment_and_writes_its_result(tmp_path, monkeypatch, capsys):
    assert set(get_args(Experiment)) == {"views", *EXPERIMENTS}
    folder = packed(tmp_path)
    monkeypatch.setitem(
        EXPERIMENTS, "norms", recipes.Experiment(common=TINY, variants={"plain": {}})
    )
    words = ["norms", "--train", str(folder / "train" / "*.tar")]
    words += ["--val", str(folder / "val" / "*.tar"), "--seeds", "1"]
    jobs.fidelity.__main__.main([*words, "--json", str(tmp_path / "found.json")])
    assert "| plain | " in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["experiment"] == "norms"


def test_views_need_a_checkpoint(capsys):
    with pytest.raises(SystemExit):
        jobs.fidelity.__main__.main(["views"])
    assert "--checkpoint is required for views" in capsys.readouterr().err
