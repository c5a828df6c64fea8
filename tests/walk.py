"""Steps through the MLflow UI that compare the runs of a sweep, in a headless browser."""

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress

from playwright.sync_api import Locator, Page
from playwright.sync_api import TimeoutError as NotInTimeError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Long enough for a busy machine to draw. Only a failure takes this long.
LIMIT_MS = 90_000
SIZE = {"width": 1400, "height": 900}
# Most scrolls of a list, pixels per scroll, and milliseconds to look for a name after each.
_SCROLLS, _SCROLL_PX, _LOOK_MS = 100, 150, 250


def browser() -> str | None:
    """Return the path of a browser that Playwright can drive, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def open_experiment(page: Page, uri: str, experiment: str) -> None:
    """Go from the UI's first page to the runs of an experiment."""
    page.goto(uri)
    page.get_by_text("Model training", exact=True).click()
    page.get_by_role("link", name="Experiments").first.click()
    page.get_by_role("link", name=experiment, exact=True).click()


def run_link(page: Page, name: str) -> Locator:
    """Return a run's link in the table of an experiment."""
    return page.get_by_role("link", name=name, exact=True)


def unfold(page: Page, parent: str) -> None:
    """Show the runs nested under a parent."""
    _row(page, parent).get_by_role("button").first.click()


def compare(page: Page, runs: Sequence[str]) -> None:
    """Select runs in the table and open their comparison."""
    for run in runs:
        _row(page, run).get_by_role("checkbox", name="row selection").check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("tab", name="Parallel Coordinates Plot").wait_for()


def parallel_coordinates(page: Page, parameter: str, metric: str) -> Locator:
    """Replace the default axes by one parameter and one metric; return the plot."""
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
    """Show only the differing metrics in the comparison's table."""
    page.get_by_role("switch", name="Metrics - Show diff only").click()


def metric_row(page: Page, name: str) -> list[str]:
    """Return a metric's name and values from the comparison's table."""
    link = page.locator('a[title="Plot chart"]')
    link.first.scroll_into_view_if_needed()
    # Only the right column scrolls; the left one follows it.
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
    """Show the pictures of a step side by side in an experiment's charts; return the grid."""
    page.locator("label", has=page.locator("[value=CHART]")).click()
    page.get_by_placeholder("Search metric charts").fill(key)
    card = page.get_by_test_id("experiment-view-compare-runs-card").filter(has_text=key)
    card.get_by_test_id("experiment-view-compare-runs-card-menu").click()
    page.get_by_role("menuitem", name="Configure").click()
    form = page.get_by_role("dialog")
    form.get_by_role("spinbutton").fill(str(step))
    # The value takes effect when the field loses the focus.
    form.get_by_role("spinbutton").press("Tab")
    # With fifty parameters above each picture, only one picture fits in a row.
    form.get_by_role("switch").click()
    form.get_by_role("button", name="Save changes").click()
    form.wait_for(state="hidden")
    card.locator('[data-component-id="fullscreen_button_chartcard"]').click()
    return page.get_by_role("dialog")


def open_artifact(page: Page, run: str, path: Sequence[str]) -> Locator:
    """Open a run's artifact from the experiment's table, folder by folder; return its picture."""
    run_link(page, run).click()
    page.get_by_role("tab", name="Artifacts").click()
    for name in path:
        page.get_by_text(name, exact=True).click()
    return page.locator('img[src^="blob:"]').first


def close_assistant(page: Page) -> None:
    """Close the panel that MLflow opens on the first visit."""
    page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]').click()


def _scroll_to(page: Page, wanted: Locator) -> None:
    """Scroll under the pointer until `wanted` appears: long lists render only what is visible."""
    for _ in range(_SCROLLS):
        with suppress(NotInTimeError):
            wanted.wait_for(timeout=_LOOK_MS)
            return
        page.mouse.wheel(0, _SCROLL_PX)
    wanted.wait_for()


def _row(page: Page, run: str) -> Locator:
    return page.get_by_role("row").filter(has=run_link(page, run))
