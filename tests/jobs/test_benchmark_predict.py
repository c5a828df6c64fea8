"""The benchmark of prediction: all variants find the same heatmaps; ratios are of rounds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs.benchmark.__main__
from jobs.benchmark.predict import variants as module
from jobs.benchmark.predict.prediction import PredictBenchmark, over_plain
from jobs.benchmark.predict.variants import default, noise, prepare, variants
from jobs.benchmark.timing import Timing
from pipeline.settings import ModelSettings

VARIANTS = ("fp32 contiguous", "fp32 channels_last", "bf16 channels_last", "ONNX Runtime fp32")


@pytest.mark.slow
def test_every_variant_finds_the_same_heatmaps():
    network = ModelSettings(stacks=1, features=8, input_px=64, joints=16)
    images = noise(2, 64)
    assert variants() == VARIANTS
    plain, *others = (prepare(variant, network)(images) for variant in VARIANTS)
    assert plain.shape == (2, 16, 16, 16)
    for variant, found in zip(VARIANTS[1:], others, strict=True):
        far = np.abs(found - plain).max() / np.abs(plain).max()
        assert far < (0.05 if variant.startswith("bf16") else 1e-5), variant


def test_the_ratio_is_the_median_of_the_rounds_own():
    seconds = {
        "fp32 contiguous": (1.0, 2.0, 4.0),
        "fp32 channels_last": (1.0, 1.0, 1.0),
        "bf16 channels_last": (0.5, 0.5, 0.25),
    }
    timings = {
        variant: [Timing(samples=4, wall_s=s, cpu_s=s) for s in rounds]
        for variant, rounds in seconds.items()
    }
    assert over_plain(timings) == {
        "fp32 contiguous": 1.0,
        "fp32 channels_last": 2.0,
        "bf16 channels_last": 4.0,
    }


@pytest.mark.slow
def test_the_command_prints_and_writes_its_measurements(tmp_path, capsys, monkeypatch):
    apart: list[tuple[str, int]] = []

    def here(function: Callable[..., Any], *arguments: Any) -> Any:
        apart.append((function.__name__, arguments[-1]))
        return function(*arguments)

    # Each process of its own would load torch, and ONNX Runtime's exporter, once more.
    monkeypatch.setattr("jobs.benchmark.predict.prediction.in_fresh_process", here)
    monkeypatch.setattr("jobs.benchmark.predict.variants._write_onnx", exported_once(tmp_path))
    monkeypatch.setattr("jobs.benchmark.predict.variants.in_fresh_process", lambda f, *a: f(*a))
    path = tmp_path / "predict.json"
    options = ("--stacks", "1", "--batch", "1", "4", "--features", "8", "--input-px", "64")
    more = ("--rounds", "1", "--memory-batch", "4", "--json", str(path))
    jobs.benchmark.__main__.main(["predict", *options, *more])
    assert apart == [("_time", VARIANTS)] * 2 + [("peak_memory_mib", 4)] * 4
    result = json.loads(path.read_text())
    assert list(result)[:2] == ["over_plain_fp32", "over_plain_fp32_by_variant"]
    by_variant = result["over_plain_fp32_by_variant"]["1"]
    assert result["over_plain_fp32"] == {
        "1": {batch: by_variant[batch][default()] for batch in ("1", "4")}
    }
    assert [row["variant"] for row in result["speed"]] == [*VARIANTS, *VARIANTS]
    assert all(row["images_per_s"] == pytest.approx(row["rounds"][0]) for row in result["speed"])
    assert set(result["peak_memory_mib"]["1"]) == set(VARIANTS)
    assert min(result["peak_memory_mib"]["1"].values()) > 50
    text = capsys.readouterr().out
    assert f"prediction uses {default()} here; over_plain_fp32:" in text
    assert f"stacks 1, batch 4, {default()}" in text


def exported_once(folder: Path) -> Callable[[ModelSettings, Path], None]:
    """Return a function that exports the first time it is called, and copies from then on."""
    original, kept = module._write_onnx, folder / "kept.onnx"

    def write(network: ModelSettings, path: Path) -> None:
        if not kept.exists():
            original(network, kept)
        shutil.copy(kept, path)

    return write


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "--rounds must be at least 1, got 0"),
        ({"stacks": (1, 0)}, "--stacks must be at least 1, got 0"),
        ({"batches": (0,)}, "--batch must be at least 1, got 0"),
    ],
)
def test_invalid_settings_of_the_benchmark_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        PredictBenchmark(**changes)
