"""The saved view of an experiment; test_walk.py opens it in a browser."""

import json

from mlflow import MlflowClient

from pipeline.tracking.runs import start_run
from pipeline.tracking.views import keep_view, view, view_of

SCORES = ["pckh_0.5", "pckh_0.1"]


def test_a_view_sorts_by_the_primary_score_and_has_its_columns_and_charts():
    made = view(SCORES, 1000)
    assert (made["name"], made["createdAt"]) == ("Scores: pckh_0.5", 1000)
    state = json.loads(made["state"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`pckh_0.5`", False)
    assert state["selectedColumns"] == [
        *("metrics.`pckh_0.5`", "metrics.`pckh_0.1`"),
        *("params.`model.stacks`", "params.`model.modules`", "params.`optim.learning_rate`"),
        *("metrics.`samples_per_s`", "attributes.`Dataset`", "attributes.`Source`"),
    ]
    assert "duration" in state["columnOrder"]
    [section] = state["compareRunSections"]
    charts = state["compareRunCharts"]
    assert {chart["metricSectionId"] for chart in charts} == {section["uuid"]}
    assert [chart["type"] for chart in charts] == ["SCATTER", "LINE", "LINE", "IMAGE"]
    curves = [chart for chart in charts if chart["type"] == "LINE"]
    assert [(curve["metricKey"], curve["lineSmoothness"]) for curve in curves] == [
        ("pckh_0.5", 0),
        ("val_loss", 0),
    ]
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_an_experiment_keeps_a_view_for_each_primary_score_as_it_is(tmp_path, new_database):
    uri = new_database(tmp_path / "mlflow.db")
    run = start_run(uri, "poses", "run", params={}, tags={}, artifacts=tmp_path)
    assert view_of(run) == ""
    keep_view(run, SCORES, 1000)
    assert view_of(run) == "scores_pckh_0.5"
    client, tag = MlflowClient(uri), "mlflow.sharedViewState.scores_pckh_0.5"
    client.set_experiment_tag(run.experiment_id, tag, "changed by its user")
    keep_view(run, SCORES, 2000)
    keep_view(run, ["pck_box_0.1"], 3000)
    tags = client.get_experiment(run.experiment_id).tags
    assert tags[tag] == "changed by its user"
    assert json.loads(tags["mlflow.sharedViewState.scores_pck_box_0.1"])["createdAt"] == 3000
    assert view_of(run) == "scores_pck_box_0.1"
    keep_view(run, ["auc"], 2500)
    assert view_of(run) == "scores_pck_box_0.1"
