"""The report of a sweep: ranks, costs, the best command, and the page."""

import base64
import hashlib
import json
import math
import shlex
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import jobs.train
from pipeline.run.storage import scratch_folder
from pipeline.settings import Settings
from pipeline.settings.cli import parse
from tune.figures.curves import learning_curves
from tune.figures.parallel_coordinates import parallel_coordinates
from tune.figures.scatter import Dot, scores_against, trials_against
from tune.outcome import SweepOutcome, TrialOutcome
from tune.report.command import best_command
from tune.report.figures import pictures
from tune.report.leaderboard import best, leaderboard, pareto_front, ranked, ranks, summary
from tune.report.page import report_page, write_report
from tune.report.table import leaderboard_text
from tune.report.values import axis_values, last_line, short_keys, shortened, shown

NAN = math.nan
# Elements that HTML never closes.
VOID = {"meta", "img", "br"}
KNOWN_ATTRIBUTES = {
    *("alt", "charset", "class", "content", "data-of", "data-value", "hidden", "href"),
    *("http-equiv", "id", "lang", "name", "src", "type", "width"),
}


def history(*scores: float, samples: int = 100) -> dict[str, list[tuple[int, float]]]:
    """Return an epoch of `samples` samples for each score, and losses that halve."""
    seen = [samples * (epoch + 1) for epoch in range(len(scores))]
    losses = [0.5**epoch for epoch in range(len(scores))]
    return {
        "pckh_0.5": list(zip(seen, scores, strict=True)),
        "train_loss": list(zip(seen, losses, strict=True)),
        "val_loss": list(zip(seen, losses, strict=True)),
    }


def trial(name: str, score: float = NAN, **changes) -> TrialOutcome:
    """A finished trial of two epochs in 60 s; without a score one that has none."""
    scored = not math.isnan(score)
    made = {
        "name": name,
        "point": {"model.stacks": 1},
        "status": "finished",
        "score": score,
        "best_epoch": 2 if scored else 0,
        "samples": 200,
        "seconds": 60.0,
        "samples_per_s": 4.0 if scored else NAN,
        "parameters": 1_000_000,
        "macs": 2e9,
        "checkpoint": Path("/runs") / name / "best" if scored else None,
        "error": "",
        "history": history(score / 2, score) if scored else {},
    }
    return TrialOutcome(**made | changes)


def failed(name: str, error: str = "RuntimeError: out of memory", **changes) -> TrialOutcome:
    return trial(name, **{"status": "failed", "error": error} | changes)


def sweep(*trials: TrialOutcome, **changes) -> SweepOutcome:
    keys = dict.fromkeys(key for one in trials for key in one.point)
    made = {
        "name": "sweep-stacks-0123abcd",
        "headline": "PCKh@0.5",
        "metric": "pckh_0.5",
        "axes": {key: [one.point.get(key) for one in trials] for key in keys},
        "trials": trials,
        "command": ["--data.train", "out/train-*.tar", "--data.val", "out/val-*.tar"],
    }
    return SweepOutcome(**made | changes)


def stacks(*scores: float) -> SweepOutcome:
    """Trials of 1, 2, 4, ... stacks, each at twice the cost of the one before."""
    return sweep(
        *(
            trial(
                f"stacks-{2**place}",
                score,
                point={"model.stacks": 2**place},
                macs=2e9 * 2**place,
                parameters=10**6 * 2**place,
                seconds=60.0 * 2**place,
                samples_per_s=8.0 / 2**place,
            )
            for place, score in enumerate(scores)
        )
    )


def names(outcome: SweepOutcome) -> list[str]:
    return [one.name for one in ranked(outcome)]


def many(count: int) -> SweepOutcome:
    """Trials of every status, with four settings, some of them long and some of them words."""
    kinds = ("finished", "stopped", "failed", "unfinished")
    return sweep(
        *(
            trial(
                f"a-trial-with-a-rather-long-name-{number:03d}",
                NAN if number % 7 == 3 else 30.0 + number % 11,
                status=kinds[number % 4],
                error="RuntimeError: late" if kinds[number % 4] == "failed" else "",
                point={
                    "model.stacks": 1 + number % 8,
                    "optim.learning_rate": 1e-5 * 1.2**number,
                    "optim.loss": ("mse", "cross-entropy")[number % 2],
                    "optim.weight_decay": (0.0, 1e-4)[number % 2],
                },
                macs=1e9 * (1 + number % 8),
                seconds=100.0 + number,
                samples_per_s=500.0 / (1 + number % 8),
            )
            for number in range(count)
        )
    )


# Pareto front


def test_the_front_holds_trials_that_no_other_beats_at_the_same_or_a_lower_cost():
    #         cheapest  dominated  better  same cost, worse  dearer, worse  best
    costs = [1.0, 2.0, 2.5, 2.5, 3.0, 4.0]
    scores = [10.0, 9.0, 20.0, 15.0, 19.0, 21.0]
    assert pareto_front(costs, scores) == [0, 2, 5]


def test_the_front_goes_from_the_cheapest_on_and_keeps_twins():
    assert pareto_front([3.0, 1.0, 1.0], [30.0, 10.0, 10.0]) == [1, 2, 0]


def test_of_equal_scores_the_cheaper_is_on_the_front():
    assert pareto_front([2.0, 1.0], [10.0, 10.0]) == [1]


def test_unknown_values_are_left_out_of_the_front():
    assert pareto_front([NAN, 1.0, 2.0, math.inf], [50.0, NAN, 10.0, 90.0]) == [2]
    assert pareto_front([], []) == []


# Leaderboard


def test_trials_are_ranked_by_score_then_cost_then_name():
    outcome = sweep(
        trial("b", 40.0),
        trial("dear", 50.0, macs=3e9),
        trial("none"),
        trial("cheap", 50.0, macs=1e9),
        trial("a", 40.0),
        trial("best", 60.0),
    )
    assert names(outcome) == ["best", "cheap", "dear", "a", "b", "none"]
    assert ranks(ranked(outcome)) == [1, 2, 2, 4, 4, None]


def test_a_failed_trial_is_never_the_best_whatever_its_score():
    outcome = sweep(failed("late"), failed("early", score=90.0), trial("none"), trial("good", 10.0))
    assert names(outcome) == ["good", "none", "early", "late"]
    assert ranks(ranked(outcome)) == [1, None, None, None]
    assert best(outcome).name == "good"
    assert best(sweep(failed("early", score=90.0), trial("none"))) is None


def test_the_table_has_a_row_per_trial_with_all_known_values():
    table = leaderboard(stacks(NAN, 50.0))
    assert list(table.columns) == [
        *("rank", "trial", "status", "model.stacks", "score", "best_epoch", "samples", "seconds"),
        *("samples_per_s", "parameters", "gmac", "checkpoint", "error"),
    ]
    assert table.iloc[0].to_dict() == {
        **{"rank": 1, "trial": "stacks-2", "status": "finished", "model.stacks": 2, "score": 50.0},
        **{"best_epoch": 2, "samples": 200, "seconds": 120.0, "samples_per_s": 4.0},
        **{"parameters": 2_000_000, "gmac": 4.0, "checkpoint": "/runs/stacks-2/best", "error": ""},
    }
    assert table.iloc[1][["rank", "score", "best_epoch"]].isna().all()


def test_the_summary_counts_trials_by_status():
    outcome = sweep(trial("a", 1.0), trial("b", 2.0), failed("c"))
    assert summary(outcome) == (
        "3 trials: 1 failed, 2 finished; 600 training samples, 3 min 0 s of the trials' time"
    )
    assert summary(sweep()) == "0 trials"


# Text


def test_the_text_lists_constant_settings_once():
    outcome = sweep(
        *(
            trial(f"t{n}", score, point={"model.stacks": n, "model.modules": 1})
            for n, score in ((1, 40.0), (2, 50.25))
        )
    )
    _, _, same, head, first, second = leaderboard_text(outcome).splitlines()
    assert same == "all with model.modules 1"
    assert head.split() == [
        *("rank", "PCKh@0.5", "trial", "status", "stacks", "best", "epoch", "samples", "time"),
        *("samples/s", "parameters", "GMAC"),
    ]
    assert first.split()[:5] == ["1", "50.25", "t2", "finished", "2"]
    assert second.split()[:5] == ["2", "40.00", "t1", "finished", "1"]


def test_costs_of_small_networks_keep_two_digits_that_are_not_zero():
    tiny = trial("tiny", 40.0, macs=3.456e6, samples_per_s=0.0345)
    text = leaderboard_text(sweep(tiny, trial("large", 50.0)))
    large, small = (line.split() for line in text.splitlines()[-2:])
    assert (large[-3], large[-1]) == ("4.0", "2.00")
    assert (small[-3], small[-1]) == ("0.035", "0.0035")


def test_the_text_of_many_trials_fits_the_terminal_and_names_omitted_columns():
    text = leaderboard_text(many(50))
    assert max(map(len, text.splitlines())) <= 120
    assert "a-trial-wi" in text
    assert "also in trials.csv: parameters, samples" in text
    narrow = leaderboard_text(many(50), width=100)
    assert max(map(len, narrow.splitlines())) <= 100


def test_the_text_has_the_last_line_of_a_failed_trials_error():
    error = (
        "Traceback:\n"
        + "  File x\n" * 500
        + "ValueError: first\n\n"
        + "RuntimeError: "
        + "x" * 9000
    )
    last = leaderboard_text(sweep(failed("a", error), trial("b", 1.0))).splitlines()[-1]
    assert last.startswith("failed: a: RuntimeError: xxx")
    assert len(last) == 120


# Command


def parsed(command: str) -> Settings:
    """The settings of a command, as a shell and `jobs.train` read it."""
    python, flag, module, *arguments = shlex.split(command)
    assert (python, flag, module) == ("python", "-m", "jobs.train")
    return parse(jobs.train.Arguments, None, arguments).settings


def test_the_best_command_is_read_back_as_equal_settings():
    point = {
        "model.stacks": 4,
        "model.supervision": "last-stack",
        "optim.learning_rate": 0.00031415926535897931,
        "optim.zero_heads": False,
        "optim.checkpointing": True,
        "optim.weight_decay": 0.0,
    }
    shared = {
        "data.train": "out/it's a $HOME/train-*.tar",
        "data.val": "s3://pose/val-{00..12}.tar;x",
        "ray.workers": "1:2",
        "tracking.experiment": "my sweep",
    }
    outcome = sweep(
        trial("good", 50.0, point=point),
        trial("bad", 40.0, point=point | {"model.stacks": 1}),
        command=[word for key, value in shared.items() for word in (f"--{key}", value)],
    )
    assert parsed(best_command(outcome)) == Settings.from_flat(shared | point)


def test_a_value_that_begins_with_a_dash_is_no_option():
    outcome = sweep(trial("a", 50.0, point={"tracking.experiment": "-v"}), command=[])
    assert best_command(outcome) == "python -m jobs.train --tracking.experiment=-v"
    assert parsed(best_command(outcome)).tracking.experiment == "-v"


def test_a_list_becomes_several_words():
    outcome = sweep(trial("a", 50.0, point={"x.list": [1, True, "b c"]}), command=[])
    assert best_command(outcome) == "python -m jobs.train --x.list 1 true 'b c'"


def test_without_a_score_there_is_no_best_command():
    assert best_command(sweep(trial("a"), failed("b", score=10.0))) is None


# Values


def test_values_are_shown_as_people_write_them():
    values = [True, 0.00025, 1, [1, 2.0, "a"], None, "two\nlines", "s3://me:secret@x/y"]
    assert [shown(value) for value in values] == [
        *("true", "0.00025", "1", "1 2 a", "-", "two lines", "s3://***@x/y"),
    ]


def test_long_names_lose_their_middle():
    assert shortened("0123456789", 10) == "0123456789"
    assert shortened("0123456789", 6) == "01…789"


def test_keys_are_short_where_no_other_ends_alike():
    keys = ["model.stacks", "optim.seed", "data.seed"]
    assert list(short_keys(keys).values()) == ["stacks", "optim.seed", "data.seed"]


def test_the_last_line_of_an_error_is_the_last_that_is_not_blank():
    assert last_line("Traceback\n  x\nValueError: no\n  \n") == "ValueError: no"
    assert last_line("") == ""


def test_numbers_keep_their_places_and_others_become_words_in_order():
    assert axis_values([4, 1, 2.5]) == ([4.0, 1.0, 2.5], [])
    # Zero and less have no logarithm.
    assert axis_values([0.1, 0, -1.0]) == (["0.1", "0", "-1"], ["-1", "0", "0.1"])
    assert axis_values([float(n) for n in range(9)]) == ([float(n) for n in range(9)], [])
    # True is no 1, and 10 comes after 9.
    assert axis_values([True, 10, 9, "a"]) == (["true", "10", "9", "a"], ["9", "10", "true", "a"])
    assert axis_values([[1, 2], [3], [1, 2]]) == (["1 2", "3", "1 2"], ["1 2", "3"])
    assert axis_values([NAN, 1.0, NAN]) == (["nan", "1", "nan"], ["1", "nan"])


def test_words_are_not_shortened_until_they_are_the_same():
    long = ["x" * 30 + "1" + "y" * 30, "x" * 30 + "2" + "y" * 30]
    assert axis_values(long) == (long, long)


# Figures


def drawn(outcome: SweepOutcome) -> dict[str, object]:
    return {picture.name: picture.figure for picture in pictures(outcome)}


def test_scores_are_drawn_against_settings_and_costs_that_vary():
    assert list(drawn(stacks(40.0, 50.0))) == [
        *("against_model.stacks.png", "against_gmac.png", "against_parameters.png"),
        *("against_seconds.png", "against_samples_per_s.png", "parallel_coordinates.png"),
        "learning_curves.png",
    ]
    assert list(drawn(stacks(40.0))) == ["learning_curves.png"]


def test_without_any_score_nothing_is_drawn():
    assert pictures(stacks(NAN, NAN)) == []
    assert pictures(sweep(failed("a"), failed("b"))) == []
    assert pictures(sweep()) == []


def test_values_are_joined_and_named_only_where_they_are_few():
    few, many_values = (
        trials_against("x.a", [float(1 + n) for n in range(count)], [1.0] * count, "PCKh@0.5")
        for count in (12, 13)
    )
    assert [line.get_label() for line in few.axes[0].lines] == ["trial", "best"]
    assert [tick.get_text() for tick in few.axes[0].get_xticklabels()] == [
        str(1 + n) for n in range(12)
    ]
    assert [line.get_label() for line in many_values.axes[0].lines] == ["trial"]
    assert len(many_values.axes[0].get_xticks()) < 13


def test_values_at_or_below_zero_keep_a_linear_axis():
    figure = trials_against("x.a", [-1.0, 0.0, 1.0], [1.0, 2.0, 3.0], "PCKh@0.5")
    assert figure.axes[0].get_xscale() == "linear"


def test_long_words_are_turned():
    def rotation(letters: int) -> float:
        words = ["a" * letters, "b" * letters]
        figure = trials_against("x.a", words, [1.0, 2.0], "PCKh@0.5")
        return figure.axes[0].get_xticklabels()[0].get_rotation()

    assert (rotation(25), rotation(26)) == (0.0, 90.0)


def front_of(figure) -> list[list[float]]:
    [line] = [line for line in figure.axes[0].lines if line.get_label() == "Pareto front"]
    return line.get_xydata().tolist()


def test_the_front_is_drawn_from_cheap_to_dear_and_from_fast_to_slow():
    # The dearer of 4 stacks is worse than the cheaper of 2.
    figures = drawn(stacks(40.0, 50.0, 45.0, 60.0))
    assert front_of(figures["against_gmac.png"]) == [[2, 40], [4, 50], [16, 60]]
    assert front_of(figures["against_parameters.png"]) == [[1, 40], [2, 50], [8, 60]]
    # 60 to 480 s are shown in minutes.
    assert front_of(figures["against_seconds.png"]) == [[1, 40], [2, 50], [8, 60]]
    assert front_of(figures["against_samples_per_s.png"]) == [[8, 40], [4, 50], [1, 60]]
    marks = [text.get_text() for text in figures["against_gmac.png"].axes[0].texts]
    assert marks == ["#4", "#2", "#1"]


def test_a_failed_trial_is_drawn_but_is_not_on_the_front():
    cheap = failed("cheap", score=90.0, macs=1e9)
    figure = drawn(sweep(cheap, trial("good", 50.0, macs=2e9)))["against_gmac.png"]
    assert front_of(figure) == [[2, 50]]
    shown_trials = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert shown_trials["failed"] == [[1, 90]]


def test_costs_of_several_orders_lie_on_a_logarithmic_axis():
    def scale(*costs: float) -> str:
        dots = [Dot(mark="#1", name="a", status="finished", cost=c, score=1.0) for c in costs]
        return scores_against(dots, [0], "s", "PCKh@0.5").axes[0].get_xscale()

    assert scale(1.0, 20.0) == "log"
    assert scale(1.0, 19.0) == "linear"
    assert scale(0.0, 20.0) == "linear"


def places(settings: dict[str, tuple[list, list[str]]], *scores: float) -> list[list[float]]:
    figure = parallel_coordinates(settings, scores, "PCKh@0.5")
    lines = figure.axes[0].lines[: len(scores)]
    return [pytest.approx(line.get_ydata(), nan_ok=True) for line in lines]


def test_parallel_coordinates_go_from_settings_to_score():
    settings = {
        "rate": ([1e-4, 1e-2, 1e-3], []),
        "stacks": ([2.0, 4.0, 3.0], []),
        "loss": (["b", "c", "a"], ["a", "b", "c"]),
    }
    # The rate's axis is logarithmic; the best is drawn last, who has no score first.
    assert places(settings, 60.0, 40.0, NAN) == [
        [0.5, 0.5, 0.0, NAN],
        [1.0, 1.0, 1.0, 0.0],
        [0.0, 0.0, 0.5, 1.0],
    ]


def test_values_and_scores_that_are_all_the_same_lie_in_the_middle():
    assert places({"stacks": ([2.0, 2.0], [])}, 50.0, 50.0) == [[0.5, 0.5], [0.5, 0.5]]


def test_scores_keep_a_linear_axis():
    found = places({"stacks": ([1.0, 1.0, 1.0], [])}, 1.0, 11.0, 101.0)
    assert found == [[0.5, 0.0], [0.5, 0.1], [0.5, 1.0]]


def test_learning_curves_end_with_a_mark_where_a_trial_ended():
    courses = [
        trial("whole", history=history(10.0, NAN, 30.0)),
        trial("short", status="stopped", history=history(5.0, 6.0)),
        trial("broken", status="failed", history=history(4.0)),
        trial("never", status="failed"),
    ]
    figure = learning_curves(courses, {"pckh_0.5": "PCKh@0.5 (%)", "val_loss": "loss"})
    lines = {tuple(map(tuple, line.get_xydata())): line for line in figure.axes[0].lines}
    # Every curve once, and the end of those that did not finish; NaN is left out.
    assert set(lines) == {
        ((100, 10), (300, 30)),
        ((100, 5), (200, 6)),
        ((200, 6),),
        ((100, 4),),
    }
    assert lines[((200, 6),)].get_marker() == "v"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["whole", "short", "broken", "ended here: stopped", "ended here: failed"]


def test_only_the_first_of_many_curves_have_names():
    courses = [trial(f"t{n}", history=history(1.0)) for n in range(50)]
    figure = learning_curves(courses, {"pckh_0.5": "PCKh@0.5 (%)"})
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*(f"t{n}" for n in range(8)), "42 others"]


# Page


class Page(HTMLParser):
    """The text of a page by element; refuses elements that are closed in another order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.scripts = 0
        self.rows: list[list[str]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.attributes |= given.keys()
        self.addresses += [given[name] for name in ("src", "href") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        self.scripts += tag == "script"
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        """The words as a browser shows them: a line break is a space."""
        return " ".join("".join(self.words).split())


def page_of(outcome: SweepOutcome) -> Page:
    shown_pictures = pictures(outcome)
    return Page(report_page(outcome, shown_pictures, {p.name: b"png" for p in shown_pictures}))


def test_the_page_holds_each_trial_once_in_its_table_best_first():
    outcome = many(50)
    page = page_of(outcome)
    head, *rows = page.rows
    assert head[:4] == ["rank", "PCKh@0.5", "trial", "status"]
    assert [row[2] for row in rows] == names(outcome)
    assert all({f"trial-{row}"} <= set(page.ids) for row in range(50))


def test_the_page_needs_nothing_but_itself():
    page = page_of(many(50))
    assert page.addresses
    for address in page.addresses:
        if address.startswith("#"):
            assert address[1:] in page.ids
        else:
            assert address.startswith("data:image/png;base64,")


def test_the_page_lets_nothing_run_but_its_own_script():
    text = report_page(sweep(), [], {})
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'\">"
    ) in text


def test_hostile_text_is_shown_and_never_run():
    nasty = "<script>alert(1)</script>\"'&<b>"
    outcome = sweep(
        failed(f"name{nasty}", f"RuntimeError: {nasty}", point={f"key{nasty}": nasty}),
        trial(f"good{nasty}", 50.0, point={f"key{nasty}": "plain"}),
        name=f"sweep{nasty}",
        headline=f"PCK{nasty}",
        how=f"how{nasty}",
        command=["--data.train", nasty],
    )
    page = page_of(outcome)
    # The page's own.
    assert page.scripts == 1
    assert page.attributes <= KNOWN_ATTRIBUTES
    for word in ("sweep", "PCK", "how", "key", "name", "good", "/runs/good", "RuntimeError: "):
        assert f"{word}{nasty}" in page.text


def test_the_page_shows_no_secret():
    secret = "s3://me:hunter2@bucket/x?token=hunter2"
    outcome = sweep(
        trial("a", 50.0, point={"data.train": secret}),
        failed("b", f"OSError: {secret}", point={"data.train": "x"}),
        command=["--data.val", secret],
    )
    shown_pictures = pictures(outcome)
    text = report_page(outcome, shown_pictures, {p.name: b"" for p in shown_pictures})
    assert "hunter2" not in text
    assert "Secrets are shown as ***" in text
    assert "hunter2" not in leaderboard(outcome).to_csv()
    assert "hunter2" not in leaderboard_text(outcome)


def test_the_page_gives_reasons_of_failures_and_the_end_of_a_long_error():
    error = "begin\n" + "x" * 30_000 + "\nOSError: the disk is full"
    page = page_of(sweep(failed("a", error), trial("b", 10.0)))
    assert "a: OSError: the disk is full" in page.text
    assert f"({len(error) - 20_000:,} letters before this are in trials.csv)" in page.text
    assert "begin" not in page.text


@pytest.mark.parametrize(
    ("outcome", "sentence"),
    [
        (sweep(), "There are no trials."),
        (sweep(trial("a"), trial("b")), "There are none: every trial failed or has no score yet."),
        (sweep(failed("a", ""), failed("b")), "no reason is known"),
        (stacks(0.0), "reached PCKh@0.5 0.00% at epoch 2."),
        (
            sweep(trial("a", 10.0, status="stopped")),
            "10.00% at epoch 2; it is stopped, at 200 training samples.",
        ),
    ],
)
def test_the_page_explains_missing_trials_scores_and_early_ends(outcome, sentence):
    assert sentence in page_of(outcome).text


# On disk


def test_a_checkpoint_in_a_bucket_is_named_by_its_place_there(tmp_path):
    place = "s3://bucket/runs/sweep/a"
    scratch_folder(str(tmp_path))
    (tmp_path / ".mirror.json").write_text(f'{{"location": "{place}", "manifest": null}}')
    outcome = sweep(trial("a", 50.0, checkpoint=tmp_path / "epoch_0002"), trial("b"))
    checkpoints = leaderboard(outcome)["checkpoint"]
    assert checkpoints[0] == f"{place}/epoch_0002"
    assert pd.isna(checkpoints[1])
    page = report_page(outcome, [], {})
    assert page.count(f"{place}/epoch_0002") == 2
    assert str(tmp_path) not in page


def test_the_report_is_written_whole_and_in_order(tmp_path):
    paths = write_report(stacks(40.0, 50.0), tmp_path / "report")
    names_written = [path.relative_to(tmp_path / "report").as_posix() for path in paths]
    assert names_written == [
        "trials.csv",
        "figures/against_model.stacks.png",
        "figures/against_gmac.png",
        "figures/against_parameters.png",
        "figures/against_seconds.png",
        "figures/against_samples_per_s.png",
        "figures/parallel_coordinates.png",
        "figures/learning_curves.png",
        "report.html",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[1:-1])
    table = pd.read_csv(paths[0])
    assert table["trial"].tolist() == ["stacks-2", "stacks-1"]
    assert table["gmac"].tolist() == [4.0, 2.0]
    Page(paths[-1].read_text())
    # No other files are left.
    assert sorted(p for p in (tmp_path / "report").rglob("*") if p.is_file()) == sorted(paths)


ODD = {
    "no trial": sweep(),
    "nothing finished": sweep(trial("a"), trial("b", status="unfinished")),
    "all failed": sweep(failed("a"), failed("b", "x" * 5000)),
    "one": sweep(trial("a", 50.0)),
    "equal scores": stacks(50.0, 50.0, 50.0),
    "mixed": many(50),
    "words": sweep(
        trial("a", 1.0, point={"x.a": [1, 2], "x.b": True, "x.c": r"$\no{formula$"}),
        trial("b", 2.0, point={"x.a": [3], "x.b": False, "x.c": "_hidden"}),
        trial("c", 3.0, point={"x.a": None, "x.b": True}),
    ),
    "zero and less": sweep(
        *(
            trial(rf"$\no{{$_{n}", n, point={"x.a": n - 2, "x.b": NAN}, seconds=0.0, macs=n * 1e9)
            for n in range(5)
        )
    ),
    "no history": sweep(trial("a", 1.0, history={}), trial("b", 2.0, history={"pckh_0.5": []})),
    "not finite": sweep(
        trial("a", 1.0, history=history(NAN, math.inf), seconds=NAN, samples_per_s=math.inf),
        trial("b", 2.0, point={"model.stacks": 2}, history=history(NAN, -1.0)),
    ),
    "long words": sweep(
        *(trial(f"t{n}", 1.0 + n, point={"x.a": f"{n}" + "word" * 9}) for n in range(20))
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_any_outcome_is_reported(kind, tmp_path):
    paths = write_report(ODD[kind], tmp_path)
    assert len(pd.read_csv(paths[0])) == len(ODD[kind].trials)
    page = Page(paths[-1].read_text())
    assert len(page.rows) == len(ODD[kind].trials) + bool(ODD[kind].trials)
    assert leaderboard_text(ODD[kind]).startswith("sweep ")


def test_a_later_report_replaces_an_earlier_one(tmp_path):
    outcome = stacks(40.0, 50.0)
    write_report(outcome, tmp_path)
    better = replace(outcome, trials=[replace(outcome.trials[0], score=60.0), outcome.trials[1]])
    table = pd.read_csv(write_report(better, tmp_path)[0])
    assert table["trial"].tolist() == ["stacks-1", "stacks-2"]


def test_the_report_imports_neither_ray_nor_mlflow():
    code = "import json, sys, tune.report.page; print(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert {"ray", "mlflow", "torch", "jobs"} & set(json.loads(ended.stdout)) == set()
