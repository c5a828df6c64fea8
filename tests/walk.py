"""The way of a person through the MLflow UI who compares the runs of a sweep, in a browser without a window."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress

from playwright.sync_api import Locator, Page
from playwright.sync_api import TimeoutError as NotInTimeError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A busy machine takes long to draw; nothing waits so long unless something is wrong.
LIMIT_MS = 90_000
SIZE = {"width": 1400, "height": 900}
# How often a list is scrolled on, by how much, and how long a name is looked for each time.
_SCROLLS, _SCROLL_PX, _LOOK_MS = 100, 150, 250


def browser() -> str | None:
    """Where a browser is that Playwright can drive, if this machine has one."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def open_experiment(page: Page, uri: str, experiment: str) -> None:
    """From the UI's first page to the runs of an experiment."""
    page.goto(uri)
    page.get_by_text("Model training", exact=True).click()
    page.get_by_role("link", name="Experiments").first.click()
    page.get_by_role("link", name=experiment, exact=True).click()


def run_link(page: Page, name: str) -> Locator:
    """A run's name in the table of an experiment."""
    return page.get_by_role("link", name=name, exact=True)


def unfold(page: Page, parent: str) -> None:
    """Show the runs that are nested under a parent."""
    _row(page, parent).get_by_role("button").first.click()


def compare(page: Page, runs: Sequence[str]) -> None:
    """Select runs of the table, and open their comparison."""
    for run in runs:
        _row(page, run).get_by_role("checkbox", name="row selection").check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("tab", name="Parallel Coordinates Plot").wait_for()


def parallel_coordinates(page: Page, parameter: str, metric: str) -> Locator:
    """Draw one parameter and one metric, instead of what is chosen at first; return the plot."""
    panel = page.get_by_role("tabpanel", name="Parallel Coordinates Plot")
    panel.get_by_role("button", name="Clear All").click()
    for number, name in enumerate((parameter, metric)):
        panel.get_by_role("combobox").nth(number).click()
        choices = page.locator(".du-bois-light-select-item:visible")
        choices.first.hover()
        wanted = page.locator(f'.du-bois-light-select-item[title="{name}"]:visible')
        _scroll_to(page, wanted)
        wanted.click()
        page.keyboard.press("Escape")
    return panel.locator(".js-plotly-plot")


def scatter(page: Page, x: str, y: str) -> Locator:
    """Draw a metric against a parameter; return the plot."""
    page.get_by_role("tab", name="Scatter Plot").click()
    panel = page.get_by_role("tabpanel", name="Scatter Plot")
    for axis, name in (("X-axis", x), ("Y-axis", y)):
        panel.get_by_role("combobox", name=axis).click()
        page.get_by_role("option", name=name, exact=True).click()
    return panel.locator(".js-plotly-plot")


def differing_metrics(page: Page) -> None:
    """In the comparison's table of metrics, leave those in which the runs differ."""
    page.get_by_role("switch", name="Metrics - Show diff only").click()


def metric_row(page: Page, name: str) -> list[str]:
    """A metric's name and values, as they stand in the comparison's table."""
    link = page.locator('a[title="Plot chart"]')
    link.first.scroll_into_view_if_needed()
    # Its left column follows the right one, which is the one that scrolls.
    page.get_by_role("grid").last.hover()
    wanted = link.filter(has_text=re.compile(f"^{re.escape(name)}$"))
    _scroll_to(page, wanted)
    top = wanted.evaluate("link => link.parentElement.style.top")
    cells = page.locator(".ReactVirtualized__Grid__innerScrollContainer > div")
    found: list[str] = cells.evaluate_all(
        "(cells, top) => cells.filter(c => c.style.top === top).map(c => c.innerText.trim())", top
    )
    return found


def image_grid(page: Page, key: str, step: int) -> Locator:
    """In an experiment's charts, show the pictures of a step side by side; return the grid."""
    page.locator("label", has=page.locator("[value=CHART]")).click()
    page.get_by_placeholder("Search metric charts").fill(key)
    card = page.get_by_test_id("experiment-view-compare-runs-card").filter(has_text=key)
    card.get_by_test_id("experiment-view-compare-runs-card-menu").click()
    page.get_by_role("menuitem", name="Configure").click()
    form = page.get_by_role("dialog")
    form.get_by_role("spinbutton").fill(str(step))
    # What is typed counts when the field is left.
    form.get_by_role("spinbutton").press("Tab")
    # Fifty parameters over each picture leave no room for another beside it.
    form.get_by_role("switch").click()
    form.get_by_role("button", name="Save changes").click()
    form.wait_for(state="hidden")
    card.locator('[data-component-id="fullscreen_button_chartcard"]').click()
    return page.get_by_role("dialog")


def open_artifact(page: Page, run: str, path: Sequence[str]) -> Locator:
    """From the table of an experiment to an artifact of a run, folder by folder; return its picture."""
    run_link(page, run).click()
    page.get_by_role("tab", name="Artifacts").click()
    for name in path:
        page.get_by_text(name, exact=True).click()
    return page.locator('img[src^="blob:"]').first


def close_assistant(page: Page) -> None:
    """Close the panel that MLflow opens at the first visit."""
    page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]').click()


def _scroll_to(page: Page, wanted: Locator) -> None:
    """Turn the wheel under the pointer until something is there: long lists only draw what is seen of them."""
    for _ in range(_SCROLLS):
        with suppress(NotInTimeError):
            wanted.wait_for(timeout=_LOOK_MS)
            return
        page.mouse.wheel(0, _SCROLL_PX)
    wanted.wait_for()


def _row(page: Page, run: str) -> Locator:
    return page.get_by_role("row").filter(has=run_link(page, run))
