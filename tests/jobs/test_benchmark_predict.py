"""The benchmark of prediction: all ways find the same heatmaps, and ratios are those of the rounds."""

import json

import numpy as np
import pytest

import jobs.benchmark.__main__
from jobs.benchmark.predict.measure import PredictBenchmark, over_plain
from jobs.benchmark.predict.ways import Network, default, noise, prepare, ways
from jobs.benchmark.timing import Lap

WAYS = ("fp32 contiguous", "fp32 channels_last", "bf16 channels_last", "ONNX Runtime fp32")


def test_every_way_finds_the_same_heatmaps():
    network, images = Network(stacks=1, features=8, input_px=64), noise(2, 64)
    assert ways() == WAYS
    plain, *others = (prepare(way, network)(images) for way in WAYS)
    assert plain.shape == (2, 16, 16, 16)
    for way, found in zip(WAYS[1:], others, strict=True):
        far = np.abs(found - plain).max() / np.abs(plain).max()
        assert far < (0.05 if way.startswith("bf16") else 1e-5), way


def test_the_ratio_is_the_median_of_the_rounds_own():
    seconds = {
        "fp32 contiguous": (1.0, 2.0, 4.0),
        "fp32 channels_last": (1.0, 1.0, 1.0),
        "bf16 channels_last": (0.5, 0.5, 0.25),
    }
    laps = {
        way: [Lap(samples=4, wall_s=s, cpu_s=s) for s in rounds] for way, rounds in seconds.items()
    }
    assert over_plain(laps) == {
        "fp32 contiguous": 1.0,
        "fp32 channels_last": 2.0,
        "bf16 channels_last": 4.0,
    }


def test_the_command_tells_and_writes_what_it_measured(tmp_path, capsys):
    path = tmp_path / "predict.json"
    options = ("--stacks", "1", "--batch", "1", "4", "--features", "8", "--input-px", "64")
    more = ("--rounds", "1", "--memory-batch", "4", "--json", str(path))
    jobs.benchmark.__main__.main(["predict", *options, *more])
    result = json.loads(path.read_text())
    assert list(result)[:2] == ["over_plain_fp32", "over_plain_fp32_by_way"]
    by_way = result["over_plain_fp32_by_way"]["1"]
    assert result["over_plain_fp32"] == {
        "1": {batch: by_way[batch][default()] for batch in ("1", "4")}
    }
    assert [row["way"] for row in result["speed"]] == [*WAYS, *WAYS]
    assert all(row["images_per_s"] == pytest.approx(row["rounds"][0]) for row in result["speed"])
    assert set(result["peak_memory_mib"]["1"]) == set(WAYS)
    assert min(result["peak_memory_mib"]["1"].values()) > 50
    told = capsys.readouterr().out
    assert f"prediction takes {default()} here; over_plain_fp32:" in told
    assert f"stacks 1, batch 4, {default()}" in told


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 0}, "--rounds must be at least 1, got 0"),
        ({"stacks": (1, 0)}, "--stacks must be at least 1, got 0"),
        ({"batches": (0,)}, "--batch must be at least 1, got 0"),
    ],
)
def test_what_can_t_be_measured_is_refused(changes, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        PredictBenchmark(**changes)
