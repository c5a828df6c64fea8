"""Comparing a sweep's runs in the MLflow UI, on a real server, with a real browser."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import walk
from factories import pack_samples, samples
from mlflow_server import mlflow_server
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from pipeline.cluster.launch import task_of
from pipeline.run.journal import Journal
from pipeline.run.plan import plan_training
from pipeline.settings import Settings
from pipeline.tracking.links import comparison_page, experiment_page, link, recorded_runs, run_page
from pipeline.tracking.recording import record_run
from pipeline.tracking.runs import end_run, start_run
from pipeline.training.checkpointing import Checkpointer
from pipeline.training.loop import LoopHooks, train
from pipeline.training.trainer import Trainer

# All of it waits for a server and a browser, on a machine that may be busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STACKS, HEADLINE, EPOCHS = (1, 2, 4), "pckh_0.5", 2
NAMES = [f"stacks-{stacks}" for stacks in STACKS]


@dataclass(frozen=True, kw_only=True)
class Swept:
    """A sweep's runs on a server: its URI, their folders, and each one's last metrics by name."""

    uri: str
    folders: list[Path]
    metrics: dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    place = walk.browser()
    if place is None:
        pytest.skip(f"no browser on this machine: none of {', '.join(walk.BROWSERS)}")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def swept(
    browser: Browser,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[Path], str],
) -> Iterator[Swept]:
    """Train networks of 1, 2 and 4 stacks, recorded as a sweep's trials; no cluster is needed."""
    folder = tmp_path_factory.mktemp("walk")
    pack_samples(folder / "train", [samples(8)])
    pack_samples(folder / "val", [samples(3, first=20)], split="val")
    with mlflow_server(folder / "mlflow", new_database) as port:
        uri = f"http://127.0.0.1:{port}"
        params = {"sweep.model.stacks": list(STACKS)}
        parent = start_run(uri, "hourglass", "stacks", params=params, tags={}, artifacts=folder)
        metrics = {f"stacks-{stacks}": train_trial(folder, uri, stacks) for stacks in STACKS}
        end_run(parent, "FINISHED")
        folders = [folder / "runs" / name for name in NAMES]
        yield Swept(uri=uri, folders=folders, metrics=metrics)


def train_trial(folder: Path, uri: str, stacks: int) -> dict[str, float]:
    """Train as a trial does; return the last epoch's metrics."""
    plan = plan_training(
        Settings.from_flat(
            {
                "data.train": str(folder / "train" / "train-*.tar"),
                "data.val": str(folder / "val" / "val-*.tar"),
                "model.stacks": stacks,
                "model.features": 8,
                "model.input_px": 64,
                "optim.batch_size": 4,
                "optim.epochs": EPOCHS,
                "optim.optimizer": "adamw",
                "optim.learning_rate": 0.01,
                "optim.target_peak": 10.0,
                "ray.name": f"stacks-{stacks}",
                "ray.storage": str(folder / "runs"),
                "tracking.uri": uri,
            }
        )
    )
    trainer = Trainer(task_of(plan), 0, 1, torch.device("cpu"))
    with record_run(plan, parent="stacks") as record:
        record.begin()
        with Checkpointer(trainer, plan.folder) as checkpointer:
            train(trainer, checkpointer, LoopHooks())
    entries = Journal(plan.folder).entries()
    found: dict[str, float] = [e for e in entries if e.kind == "metrics"][-1].content["values"]
    return found


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """A page that keeps the UI's scripts from visit to visit, and nothing else."""
    context = browser.new_context(viewport=walk.SIZE)
    context.set_default_timeout(walk.LIMIT_MS)
    context.add_init_script("localStorage.clear(); sessionStorage.clear()")
    yield context.new_page()
    context.close()


@pytest.fixture
def page(tab: Page, swept: Swept) -> Page:
    """The experiment's runs in a new visit to the UI, the sweep unfolded."""
    walk.open_experiment(tab, swept.uri, "hourglass")
    walk.unfold(tab, "stacks")
    return tab


def is_shown(picture: Locator) -> bool:
    """Tell whether a picture was loaded and decoded."""
    picture.wait_for()
    shown: bool = picture.evaluate("image => image.decode().then(() => image.naturalWidth > 0)")
    return shown


def test_an_experiment_lists_a_sweep_with_its_trials(page):
    for name in ("stacks", *NAMES):
        expect(walk.run_link(page, name)).to_be_visible(timeout=walk.LIMIT_MS)


def test_a_comparison_draws_the_headline_against_the_number_of_stacks(page, swept, tmp_path):
    walk.compare(page, NAMES)
    headlines = [swept.metrics[name][HEADLINE] for name in NAMES]
    plot = walk.parallel_coordinates(page, "model.stacks", HEADLINE)
    expect(plot).to_contain_text(HEADLINE, timeout=walk.LIMIT_MS)
    drawn = plot.evaluate("plot => plot.data[0].dimensions.map(d => [d.label, d.values])")
    assert drawn == [["model.stacks", list(STACKS)], [HEADLINE, pytest.approx(headlines)]]

    plot = walk.scatter(page, "model.stacks", HEADLINE)
    expect(plot).to_contain_text(HEADLINE, timeout=walk.LIMIT_MS)
    [x, y, texts] = plot.evaluate("plot => ['x', 'y', 'text'].map(key => plot.data[0][key])")
    assert x == [str(stacks) for stacks in STACKS]
    assert y == pytest.approx(headlines)
    for name, text in zip(NAMES, texts, strict=True):
        assert text.startswith(f"<b>{name}</b>")
    walk.close_assistant(page)
    page.screenshot(path=tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 20_000


def test_a_comparison_lists_differing_metrics_joint_by_joint(page, swept):
    walk.compare(page, NAMES)
    walk.differing_metrics(page)
    joints = [name for name in swept.metrics[NAMES[0]] if name.startswith(f"{HEADLINE}/")]
    values = {name: [swept.metrics[run][name] for run in NAMES] for name in joints}
    differing = sorted(name for name in joints if len(set(values[name])) > 1)
    assert differing, "networks that find every joint equally often"
    for name in differing:
        label, *shown = walk.metric_row(page, name)
        assert label == name
        # Four digits of each.
        assert [float(value) for value in shown] == pytest.approx(values[name], rel=1e-3)
    expect(page.get_by_role("link", name="learning_rate", exact=True)).to_have_count(0)


def test_pictures_of_an_epoch_stand_side_by_side(page):
    grid = walk.image_grid(page, "overlays", EPOCHS)
    pictures = grid.locator("img")
    expect(pictures).to_have_count(len(STACKS), timeout=walk.LIMIT_MS)
    assert all(is_shown(picture) for picture in pictures.all())
    for name in NAMES:
        expect(grid).to_contain_text(name)
    boxes = [picture.bounding_box() for picture in pictures.all()]
    assert len({box["y"] for box in boxes}) == 1
    assert len({box["x"] for box in boxes}) == len(STACKS)


def test_a_printed_link_opens_the_comparison_of_the_trials(tab, swept):
    tab.goto("about:blank")
    tab.goto(link(swept.uri, comparison_page(recorded_runs(swept.folders))))
    tab.get_by_text("Comparing 3 Runs from 1 Experiment").wait_for()
    for name in NAMES:
        expect(tab.get_by_text(name, exact=True).first).to_be_visible(timeout=walk.LIMIT_MS)


def test_a_printed_link_opens_a_run(tab, swept):
    tab.goto("about:blank")
    [run] = recorded_runs(swept.folders[:1])
    tab.goto(link(swept.uri, run_page(run)))
    expect(tab.get_by_role("heading", name=NAMES[0])).to_be_visible(timeout=walk.LIMIT_MS)
    # In the part of the interface for language models it is not in the list of pages.
    expect(tab.get_by_role("link", name="Model registry")).to_be_visible()


@pytest.fixture
def wide(tab: Page) -> Iterator[Page]:
    """The page, so wide that the list draws all columns of the saved view."""
    tab.set_viewport_size({"width": 1900, "height": 1000})
    yield tab
    tab.set_viewport_size(walk.SIZE)


def test_the_saved_view_lists_runs_by_score_with_settings_data_and_source(wide, swept):
    tab = wide
    open_view(tab, swept)
    for title in ("pckh_0.5", "pckh_0.1", "model.stacks", "samples_per_s", "Dataset", "Source"):
        expect(tab.get_by_role("columnheader", name=title).first).to_be_visible()
    cells = tab.locator('[col-id="metrics.`pckh_0.5`"][role="gridcell"]')
    shown = [float(text) for text in cells.all_inner_texts() if text.strip() not in ("", "-")]
    assert len(shown) == len(STACKS)
    assert shown == sorted(shown, reverse=True)
    expect(tab.get_by_text("made-train").first).to_be_visible()
    expect(tab.get_by_text("tune.sweep").first).to_be_visible()


def test_the_saved_view_has_charts_of_scores_first(wide, swept):
    tab = wide
    open_view(tab, swept, "&compareRunsMode=CHART")
    area = tab.get_by_test_id("experiment-view-compare-runs-chart-area")
    area.locator(".js-plotly-plot").first.wait_for()
    text = area.inner_text()
    assert text.index("Scores") < text.index("Model metrics")
    cards = tab.get_by_test_id("experiment-view-compare-runs-card")
    expect(cards.first).to_contain_text("model.stacks")


def open_view(tab, swept, more: str = "") -> None:
    [run] = recorded_runs(swept.folders[:1])
    tab.goto("about:blank")
    tab.goto(link(swept.uri, experiment_page(run, f"scores_{HEADLINE}")) + more)
    expect(walk.run_link(tab, NAMES[0])).to_be_visible(timeout=walk.LIMIT_MS)
    walk.close_assistant(tab)


def test_the_first_chart_of_a_run_is_of_the_primary_metric(tab, swept):
    [run] = recorded_runs(swept.folders[:1])
    tab.goto("about:blank")
    tab.goto(link(swept.uri, f"{run_page(run)}/model-metrics"))
    cards = tab.get_by_test_id("experiment-view-compare-runs-card")
    expect(cards.first).to_contain_text(HEADLINE, timeout=walk.LIMIT_MS)


def test_a_runs_artifacts_show_its_pictures(page):
    picture = walk.open_artifact(page, "stacks-4", ["overlays", f"overlay_{EPOCHS:04d}.png"])
    assert is_shown(picture)
