"""The report of a run: recipe and settings, scores, pictures, on one page."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
from PIL import Image

from pipeline.evaluation.metrics import THRESHOLDS, JointCounts, scores
from pipeline.evaluation.report import (
    ReportPicture,
    RunReport,
    against_recipe,
    report_page,
    score_table,
)
from pipeline.io.page import picture_source
from pipeline.pose.joint_sets import MPII
from pipeline.settings import Settings
from pipeline.settings.presets import settings_of

MADE = RunReport(
    name="<run>",
    result="PCKh@0.5 12.50 after epoch 2",
    about=["A network of 3 & 4"],
    command="python -m jobs.train --data.train 'https://h/a?sig=secret'",
    facts={"best checkpoint": "/runs/<run>/epoch_0002"},
    recipe="modern",
    settings=[("optim.epochs", "2", "140")],
    tables=[(["", "PCKh@0.5"], [["ankle", "1.00"]])],
    pictures=[
        ReportPicture(name="curves", title="Curves", sentence="Losses.", png=b"one"),
        ReportPicture(name="joints", title="Joints", sentence="Bars.", png=b"two", is_broad=False),
    ],
)


def test_settings_are_compared_with_the_nearest_recipe():
    recipe, differing = against_recipe(Settings.from_flat(settings_of(["modern"])))
    assert (recipe, differing) == ("modern", [])
    near = {"optim.epochs": 3, "model.stacks": 2, "model.joints": 16, "ray.name": "any"}
    changed = Settings.from_flat(settings_of(["newell2016"]) | near)
    stacks = str(Settings().model.stacks)
    assert against_recipe(changed) == (
        "newell2016",
        [("model.stacks", "2", stacks), ("optim.epochs", "3", "216")],
    )


def test_truth_values_are_written_as_the_command_line_takes_them():
    base = settings_of(["newell2016"])
    _, differing = against_recipe(Settings.from_flat(base | {"evaluation.flip_test": False}))
    assert differing == [("evaluation.flip_test", "false", "true")]


def test_a_table_has_joints_groups_and_means_by_threshold():
    # Joint k of 20 annotated: k correct up to 0.1, all from 0.4 on; the last is annotated nowhere.
    correct = np.zeros((len(THRESHOLDS), 16), np.int64)
    correct[10:40] = np.arange(16)
    correct[40:] = 20
    correct[:, 15] = 0
    annotated = np.full(16, 20)
    annotated[15] = 0
    found = scores(JointCounts(correct=correct, annotated=annotated), MPII, MPII.measure("pckh"))
    head, rows = score_table(found)
    assert head == ["", "PCKh@0.5", "PCKh@0.1"]
    by_name = {name: values for name, *values in rows}
    assert by_name["right_knee"] == ["100.00", "5.00"]
    assert by_name["left_wrist"] == ["-", "-"]
    assert rows[0][0] == "right_ankle"
    assert [row[0] for row in rows[-3:]] == ["pooled mean", "unweighted mean", "AUC 0-0.5"]


def test_the_page_shows_everything_escaped_and_without_secrets():
    page = report_page(MADE)
    assert "<h1>Run &lt;run&gt;</h1>" in page
    assert "PCKh@0.5 12.50 after epoch 2" in page
    assert "A network of 3 &amp; 4" in page
    assert "sig=***" in page
    assert "secret" not in page
    assert '<td class="text">optim.epochs</td>' in page
    assert re.findall(r'src="data:image/png;base64,(\w+)=*"', page) == ["b25l", "dHdv"]
    anchors = re.findall(r'href="#([\w-]+)"', page)
    assert anchors == ["about", "settings", "scores", "curves", "joints"]
    assert set(anchors) <= set(re.findall(r'id="([\w-]+)"', page))


def test_photographs_are_webp_files_of_the_same_picture():
    # A gradient, as in photographs, and a thin line, as in skeletons.
    picture = np.add.outer(np.arange(120), np.arange(160))[..., None] % 256 * np.ones(3)
    picture[60, :] = (255, 0, 0)
    written = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).save(written, "PNG")
    kind, _, content = picture_source(written.getvalue(), is_photograph=True).partition(",")
    assert kind == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        assert (shown.format, shown.size) == ("WEBP", (160, 120))
        assert np.abs(np.asarray(shown, float) - picture).mean() < 8


def test_names_that_are_no_utf_8_can_be_written():
    facts = {**MADE.facts, "data.train": "/runs/caf\udce9/train-*.tar"}
    assert b"/runs/caf" in report_page(replace(MADE, facts=facts)).encode()


def test_the_page_loads_and_runs_nothing():
    page = report_page(MADE)
    assert "script-src 'none'" in page
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!#|data:image/png;base64,)', page)


def test_the_page_names_the_recipe_whose_settings_a_run_has():
    page = report_page(replace(MADE, settings=[]))
    assert "None: they are those of the recipe modern and the defaults." in page
