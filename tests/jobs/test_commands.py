"""The command lines: they answer at once, say what is wrong in a sentence, and print what is so."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from factories import pack_samples, samples
from safetensors.torch import save_file

import jobs.accept.__main__
import jobs.benchmark.__main__
import jobs.chaos.__main__
import jobs.compare
import jobs.convert
import jobs.deliver
import jobs.doctor
import jobs.evaluate
import jobs.export
import jobs.inspect
import jobs.pack
import jobs.predict
import jobs.quickstart
import jobs.score
import jobs.train
import jobs.ui
import tune.sweep
from pipeline.evaluation.metrics import scores
from pipeline.evaluation.per_person import read_results
from pipeline.model.build import build_network
from pipeline.pose.joint_sets import LSP, MPII
from pipeline.pose.person import Visibility
from pipeline.run.checkpoint import (
    AVERAGE_NAME,
    check_sound,
    load_network,
    take_snapshot,
    write_checkpoint,
)
from pipeline.run.metadata import CheckpointMetadata, Progress
from pipeline.settings import Settings
from pipeline.settings.packing import CropSettings, PackSettings
from pipeline.settings.presets import PRESETS
from pipeline.training.step import build_optimizer

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
HEAVY = ("torch", "ray", "mlflow", "cv2", "webdataset")
TRAINING = tuple(Settings().flat())
PACKING = tuple(item.name for item in fields(PackSettings) if item.name not in ("crop", "source"))
CROPPING = tuple(f"crop.{item.name}" for item in fields(CropSettings))
OPTIONS = {
    "jobs.train": (*TRAINING, "preset", "data", "config", "save_config", "dry_run"),
    "jobs.pack": (*PACKING, *CROPPING, "ray.address"),
    "jobs.evaluate": (
        *("checkpoint", "weights", "data", "data.val", "data.train", "evaluation.flip_test"),
        *("evaluation.decoding", "every_stack"),
        *("device", "threads", "figures", "json", "people", "ray.storage", "tracking.uri"),
    ),
    "jobs.compare": ("ray.storage", "tracking.uri", "json", "csv"),
    "jobs.convert": ("weights", "out", "joint_set"),
    "jobs.deliver": ("tracking_uri",),
    "jobs.doctor": ("ray.address", "ray.storage", "tracking.uri"),
    "jobs.quickstart": (),
    "jobs.export": (
        *("to", "out", "decode", "evaluation.decoding", "flip_test", "weights"),
        *("photographs", "data.val", "ray.storage", "tracking.uri"),
    ),
    "jobs.predict": (
        *(
            "out",
            "boxes",
            "boxes_category",
            "formats",
            "overlays",
            "heatmaps",
            "max_pixels",
            "weights",
            "exact",
            "device",
            "threads",
        ),
        *("ray.workers", "ray.cpus_per_worker", "ray.gpus_per_worker", "ray.address"),
        *("ray.storage", "tracking.uri"),
    ),
    "jobs.inspect": ("out", "seed"),
    "jobs.score": ("predictions", "truth", "joint-set", "json"),
    "jobs.ui": ("ray.storage", "tracking.uri", "port", "open"),
    "jobs.benchmark loader": ("photographs", "rounds", "threads", "json"),
    "jobs.benchmark step": (
        *("device", "stacks", "batch", "input_px", "precision", "compile"),
        *("memory_stacks", "curve_steps", "rounds", "json"),
    ),
    "jobs.benchmark predict": (
        *("stacks", "batch", "features", "input_px", "memory_batch", "rounds", "json"),
    ),
    "jobs.benchmark ray": ("rounds", "json"),
    "jobs.benchmark start": ("rounds", "json"),
    "jobs.benchmark scaling": ("workers", "rounds", "json"),
    "jobs.chaos": ("minutes", "seed", "json"),
    "jobs.accept": ("device", "minutes", "ray", "json"),
    "tune.sweep": (
        *(*TRAINING, "preset", "data", "config", "save_config", "space", "vary"),
        *("stacks", "modules", "learning_rates", "dry_run"),
        *("search.method", "search.trials", "search.seed", "search.against", "search.at_once"),
        *("search.retries", "early.rule", "early.grace_samples", "early.reduction"),
        *("budget.samples", "budget.gpu_hours", "budget.hours"),
    ),
}


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# Help

_HELP = """
import importlib, sys
try:
    module = importlib.import_module(sys.argv[1])
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{sys.argv[1]}.__main__")
    module.main([*sys.argv[2:], "--help"])
except SystemExit as end:
    print("status", end.code, file=sys.stderr)
print("loaded", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.parametrize("command", OPTIONS)
def test_help_answers_at_once_and_documents_every_setting(command):
    answer = subprocess.run(
        [sys.executable, "-c", _HELP, *command.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    status, loaded = answer.stderr.splitlines()
    assert status == "status 0"
    assert not set(HEAVY) & set(loaded.split())
    described = set(re.findall(r"--([a-z][\w.-]*)", answer.stdout))
    wanted = {name.replace("_", "-") for name in OPTIONS[command]}
    assert wanted <= described


@pytest.mark.parametrize("command", ["jobs.train", "tune.sweep"])
def test_every_setting_has_a_sentence_of_its_own(command):
    answer = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    plain = re.sub(r"[│╭╮╰╯─]", " ", answer.stdout)
    for key in TRAINING:
        option = key.replace("_", "-")
        [text] = re.findall(rf"--{re.escape(option)} \S+\s+([A-Z'][^()]+)", plain)[:1]
        assert len(text.split()) >= 2, key


# Mistakes

COMMANDS = {
    "jobs.train": jobs.train.main,
    "jobs.pack": jobs.pack.main,
    "jobs.evaluate": jobs.evaluate.main,
    "jobs.compare": jobs.compare.main,
    "jobs.convert": jobs.convert.main,
    "jobs.deliver": jobs.deliver.main,
    "jobs.doctor": jobs.doctor.main,
    "jobs.quickstart": jobs.quickstart.main,
    "jobs.export": jobs.export.main,
    "jobs.predict": jobs.predict.main,
    "jobs.inspect": jobs.inspect.main,
    "jobs.score": jobs.score.main,
    "jobs.ui": jobs.ui.main,
    "jobs.benchmark": jobs.benchmark.__main__.main,
    "jobs.accept": jobs.accept.__main__.main,
    "jobs.chaos": jobs.chaos.__main__.main,
    "tune.sweep": tune.sweep.main,
}


def run(main: Callable[[list[str]], None], *arguments: object) -> None:
    main([str(argument) for argument in arguments])


def error_on_failure(capsys, main, *arguments: object, status: int = 2) -> str:
    """Run a command that must end with `status`; return its standard error."""
    with pytest.raises(SystemExit) as end:
        run(main, *arguments)
    assert end.value.code == status
    # The frame around a message and its line breaks are no part of it.
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("jobs.train", "--model.stacks 0", "model.stacks must be at least 1, got 0"),
        ("jobs.train", "--model.stacks two", "--model.stacks: invalid literal"),
        ("jobs.train", "--evaluation.flip-test maybe", "expected true or false, got 'maybe'"),
        ("jobs.train", "--optim.batch-size 3 --ray.workers 2", "a multiple of ray.workers=2"),
        ("jobs.pack", "mpii-hrnet --out o", "--annotations is required for mpii-hrnet"),
        (
            "jobs.pack",
            "table --images i --annotations a.csv --out o",
            "--joint-set is required for table",
        ),
        ("jobs.pack", "synthetic --out o --scenes 1", "scenes must be at least 2, got 1"),
        ("jobs.pack", "flic --out o", "flic"),
        ("jobs.evaluate", "--checkpoint c", "--data.val"),
        ("jobs.evaluate", "--checkpoint c --data.val v --device tpu", "tpu"),
        ("jobs.compare", "", "error: RUN must name two different runs or more, got []"),
        ("jobs.compare", "a b a", "error: RUN must name two different runs or more"),
        ("jobs.convert", "--weights w", "--out"),
        ("jobs.convert", "--weights w --out o --joint-set m", "unknown joint set 'm'; known: coco"),
        ("jobs.deliver", "", "error: RUN_FOLDER is required"),
        ("jobs.inspect", "x-*.tar", "--out"),
        ("jobs.inspect", "--out o", "SHARDS is required"),
        ("jobs.inspect", "x-*.tar --out o --seed -1", "data.seed must be at least 0, got -1"),
        ("jobs.score", "--predictions p", "--truth"),
        (
            "jobs.benchmark",
            "",
            "the following arguments are required: {loader,step,predict,ray,start,storage,scaling}",
        ),
        ("jobs.benchmark", "step --rounds 0", "--rounds must be at least 1, got 0"),
        ("jobs.benchmark", "scaling --rounds 0", "--rounds must be at least 1, got 0"),
        ("jobs.benchmark", "scaling --workers 0", "--workers must be from 1 to this machine's"),
        ("jobs.benchmark", "step --stacks two", "argument --stacks: invalid int value: 'two'"),
        (
            "jobs.benchmark",
            "step --input-px 60",
            "model.input_px must be a positive multiple of 64",
        ),
        ("jobs.benchmark", "loader --rounds 0", "--rounds must be at least 1, got 0"),
        ("jobs.benchmark", "loader --threads 2 0", "--threads must be at least 1, got 0"),
        ("jobs.train", "--preset hg-it", "unknown preset 'hg-it'; did you mean 'hg-int'?"),
        ("tune.sweep", "--preset none", "unknown preset 'none'; known are paper, hg, hg-int,"),
        ("jobs.train", "--preset hg-int --model.stacks 2", "model.stacks must be 1 with model"),
        ("tune.sweep", "--space everything", "everything"),
        ("tune.sweep", "--stacks 1 two", "two"),
    ],
)
def test_a_bad_value_ends_with_a_message(capsys, command, arguments, message):
    assert message in error_on_failure(capsys, COMMANDS[command], *arguments.split())


@pytest.mark.parametrize("command", OPTIONS)
def test_an_unknown_option_ends_with_a_message(capsys, command):
    name, *subcommand = command.split()
    message = error_on_failure(capsys, COMMANDS[name], *subcommand, "--nonsense", "1")
    assert message


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("jobs.train", "--data.train x-*.tar", "error: no shards match data.train='x-*.tar'"),
        (
            "jobs.pack",
            "coco --images i --annotations a.json --out o",
            "error: a.json: no such file",
        ),
        (
            "jobs.evaluate",
            "--checkpoint c --data.val v",
            "error: MODEL='c': no such folder, and none of this name in",
        ),
        ("jobs.evaluate", "--data.val v", "error: MODEL must be given once: a checkpoint's folder"),
        ("jobs.evaluate", "c --checkpoint d --data.val v", "error: MODEL must be given once"),
        ("jobs.compare", "a b", "error: RUN='a': no such folder, and none of this name in"),
        ("jobs.compare", "a b --tracking.uri sqlite:///m.db", "error: tracking.uri='sqlite:////"),
        ("jobs.convert", "--weights w.pth --out o", "error: w.pth: no such file"),
        ("jobs.deliver", "runs/r", "error: runs/r must be the folder of a run that has started"),
        (
            "jobs.export",
            "m --to onnx",
            "error: MODEL='m': no such folder, and none of this name in",
        ),
        ("jobs.inspect", "x-*.tar --out o", "error: no shards match SHARDS='x-*.tar'"),
        ("jobs.score", "--predictions p.mat --truth t.mat", "error: t.mat: no such file"),
        ("jobs.benchmark", "loader --photographs p", "error: p: no such folder of photographs"),
        ("tune.sweep", "--data.train x-*.tar", "error: no shards match data.train='x-*.tar'"),
    ],
)
def test_a_missing_file_ends_with_a_sentence(capsys, working_folder, command, arguments, message):
    assert error_on_failure(capsys, COMMANDS[command], *arguments.split()).startswith(message)
    assert list(working_folder.iterdir()) == []


def test_a_program_that_fails_leaves_its_status_and_no_traceback(working_folder):
    ended = subprocess.run(
        [sys.executable, "-m", "jobs.pack", "lspet", "--out", "o", "--seed", "-1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "seed must be at least 0, got -1" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


# Training and sweeping, as far as a dry run goes


def packed(tmp_path: Path, joint_set=MPII, **changes) -> list[str]:
    """The options that name six people to train on and three to validate on."""
    folder = tmp_path / joint_set.name
    train = [samples(3, joint_set=joint_set), samples(3, first=3, joint_set=joint_set)]
    pack_samples(folder / "train", train, joint_set=joint_set)
    val = samples(3, first=6, joint_set=joint_set, **changes)
    pack_samples(folder / "val", [val], split="val", joint_set=joint_set)
    return ["--data.train", f"{folder}/train/*.tar", "--data.val", f"{folder}/val/*.tar"]


def test_a_dry_run_prints_the_cost_of_training_and_creates_nothing(
    tmp_path, capsys, working_folder
):
    arguments = packed(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    run(jobs.train.main, *arguments, "--model.stacks", 2, "--dry-run")
    output = capsys.readouterr().out
    assert "parameters: 6,570,400\n" in output
    assert "  model.joints = 16\n" in output
    assert f"  ray.storage = '{working_folder}/runs'\n" in output
    assert "train: 6 people in 2 shards, joint set mpii, source made\n" in output
    assert "val: 3 people in 1 shards, joint set mpii, source made\n" in output
    assert "epoch: 1 steps of 6\n" in output
    assert "learning rate: 0.00025, constant\n" in output
    # 2 and 6 operations for each of 8.33 billion multiply-accumulates.
    assert re.search(r"^GFLOPs: 16\.6\d forward, (49\.9|50\.0)\d training, an image$", output, re.M)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_dry_run_counts_the_people_that_fill_no_batch(tmp_path, capsys):
    small = ("--model.stacks", 1, "--optim.batch-size", 4)
    run(jobs.train.main, *packed(tmp_path), *small, "--dry-run")
    dropped = "2 people are dropped each epoch (incomplete batch)"
    assert f"epoch: 1 steps of 4; {dropped}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dry_run_without_data_prints_the_cost_of_the_network(capsys, working_folder):
    scaled = ("--optim.rate-scaling", "linear", "--optim.batch-size", 24)
    run(jobs.train.main, "--model.stacks", 8, *scaled, "--dry-run")
    output = capsys.readouterr().out
    assert (
        "learning rate: 0.001 (optim.learning_rate=0.00025, linear in optim.batch_size=" in output
    )
    assert "no data given: assuming 16 joints" in output
    assert "parameters: 25,434,112" in output
    assert not list(working_folder.iterdir())


@pytest.mark.slow
def test_a_dry_run_estimates_memory_with_checkpointing(capsys, working_folder):
    message = []
    for checkpointing in (False, True):
        run(
            jobs.train.main,
            "--model.stacks",
            2,
            "--optim.checkpointing",
            checkpointing,
            "--dry-run",
        )
        message += re.findall(
            "^memory: about (.*) GiB a .*, (.*) GiB in (.*)$", capsys.readouterr().out, re.M
        )
    (fp32, bf16, how), (less_fp32, less_bf16, less_how) = message
    assert float(less_fp32) < 0.5 * float(fp32)
    assert float(less_bf16) < 0.5 * float(bf16)
    assert less_how == f"{how}, with activation checkpointing"


@pytest.mark.parametrize(
    ("arguments", "stacks", "modules", "supervision"),
    [
        ("--preset paper", 8, 1, "every-stack"),
        ("--preset hg", 1, 8, "last-stack"),
        ("--preset hg-int", 1, 8, "inside"),
        ("--preset hg-stacked", 2, 4, "last-stack"),
        ("--preset=hg-stacked-int", 2, 4, "every-stack"),
        # Later ones go over earlier ones, and explicit settings over all.
        ("--preset paper hg", 1, 8, "last-stack"),
        ("--preset hg,paper", 8, 1, "every-stack"),
        ("--model.modules 2 --preset hg --preset hg-stacked", 2, 2, "last-stack"),
        ("--preset hg-stacked --model.stacks 8", 8, 4, "last-stack"),
    ],
)
def test_explicit_settings_win_over_presets(monkeypatch, arguments, stacks, modules, supervision):
    [model] = [settings.model for settings in parsed(monkeypatch, arguments)]
    assert (model.stacks, model.modules, model.supervision) == (stacks, modules, supervision)
    assert model.features == 256


def parsed(monkeypatch, arguments: str) -> list[Settings]:
    """Return what `jobs.train` would train with."""
    found = []
    monkeypatch.setattr(jobs.train, "run", found.append)
    run(jobs.train.main, *arguments.split())
    return found


def test_help_describes_each_preset():
    answer = subprocess.run(
        [sys.executable, "-m", "jobs.train", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    output = " ".join(re.sub(r"[│╭╮╰╯─]", " ", answer.stdout).split())
    for name, preset in PRESETS.items():
        assert f"{name}: {preset.summary}" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "trials"),
    [
        ("ablation-stacks", ["stacks-2_modules-4", "stacks-4_modules-2", "stacks-8_modules-1"]),
        (
            "ablation-supervision",
            [
                "stacks-1_modules-8_supervision-last-stack",
                "stacks-1_modules-8_supervision-inside",
                "stacks-2_modules-4_supervision-last-stack",
                "stacks-2_modules-4_supervision-every-stack",
            ],
        ),
    ],
)
def test_an_ablation_runs_the_papers_networks(tmp_path, capsys, space, trials):
    run(tune.sweep.main, *packed(tmp_path), "--space", space, "--dry-run")
    message = capsys.readouterr().out.splitlines()[1:-1]
    assert [line.split(": ")[0].strip() for line in message] == trials


def test_a_dry_sweep_lists_its_trials_and_creates_nothing(tmp_path, capsys, working_folder):
    arguments = packed(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    rates = ("--learning-rates", 1e-3, 1e-4)
    run(tune.sweep.main, *arguments, "--stacks", 1, 2, *rates, "--dry-run")
    head, *trials, most = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"sweep (sweep-stacks-\S*[0-9a-f]{8}): 4 trials in "
        rf"{working_folder}/runs/\1, search grid",
        head,
    )
    assert re.fullmatch(r"  at most [\d,]+ samples and \d+\.\d{2,} PFLOP", most)
    assert [line.split(",  ")[0].split(" parameters")[0] for line in trials] == [
        "  stacks-1_learning_rate-0.001: 3,426,448",
        "  stacks-1_learning_rate-0.0001: 3,426,448",
        "  stacks-2_learning_rate-0.001: 6,570,400",
        "  stacks-2_learning_rate-0.0001: 6,570,400",
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_sweep_prints_what_its_trials_start_from(tmp_path, capsys):
    start = saved(tmp_path)
    network = ("--model.features", 8, "--model.input-px", 64)
    options = (*network, "--model.start", start, "--stacks", 1, 2, "--dry-run")
    run(tune.sweep.main, *packed(tmp_path), *options)
    lines = [line for line in capsys.readouterr().out.splitlines() if "start: " in line]
    assert lines[0].startswith(f"  start: weights of {start} (")
    fit = [line.split(" of ")[1] for line in lines if line.endswith(" fit by name and shape")]
    assert len(fit) == 2


def test_losses_are_compared_with_either_start_of_the_heads(tmp_path, capsys):
    small = ("--model.stacks", 1, "--model.features", 8, "--dry-run")
    run(tune.sweep.main, *packed(tmp_path), "--space", "losses", *small)
    names = [line.split(": ")[0].strip() for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert names == [
        f"loss-{loss}_target_peak-{peak}_zero_heads-{zero}"
        for loss, peak in (("mse", 1), ("mse", 10), ("mse", 50), ("cross-entropy", 1))
        for zero in ("true", "false")
    ]


@pytest.mark.slow
def test_a_listed_space_is_multiplied_by_other_settings_alone(tmp_path, capsys):
    space = (*packed(tmp_path), "--space", "ablation-stacks", "--dry-run")
    run(tune.sweep.main, *space, "--learning-rates", 1e-3, 1e-4)
    message = capsys.readouterr().out.splitlines()[1:-1]
    assert len(message) == 6
    assert message[1].startswith("  stacks-2_modules-4_learning_rate-0.0001: 24,590,752 parameters")
    assert error_on_failure(capsys, tune.sweep.main, *space, "--stacks", 1) == (
        "error: --space ablation-stacks sets model.stacks for each of its trials; "
        "no values of it can be given"
    )


# Scoring


def write_truth(path: Path) -> np.ndarray:
    """Write two people with heads of 20 and 40 px and joint k at (10 k, 5).

    The second one's pelvis is missing.
    """
    joints = np.zeros((2, 16, 2))
    joints[:, :, 0] = 10.0 * np.arange(16)
    joints[:, :, 1] = 5.0
    missing = np.zeros((2, 16), np.uint8)
    missing[1, 6] = 1
    # 0.6 times the diagonal; 3, 4, 5 times 20/3 and 40/3.
    boxes = np.zeros((2, 2, 2))
    boxes[0, 1] = (20.0, 80 / 3)
    boxes[1, 1] = (40.0, 160 / 3)
    scipy.io.savemat(
        path,
        {
            "pos_gt_src": joints.transpose(1, 2, 0),
            "jnt_missing": missing.T,
            "headboxes_src": boxes.transpose(1, 2, 0),
        },
    )
    return joints


def write_predictions(path: Path, predictions: np.ndarray) -> None:
    if path.suffix == ".mat":
        scipy.io.savemat(path, {"preds": predictions})
    else:
        with h5py.File(path, "w") as file:
            file["preds"] = predictions


@pytest.mark.parametrize("name", ["predictions.mat", "predictions.h5"])
def test_predictions_are_scored_by_hand(tmp_path, capsys, name):
    predictions = write_truth(tmp_path / "truth.mat")
    # Right ankles off by 15 pixels: 0.75 and 0.375 heads; left wrists by 3: 0.15 and 0.075.
    predictions[:, 0, 1] += 15.0
    predictions[:, 15, 0] -= 3.0
    predictions[:, 6] += 1000.0
    write_predictions(tmp_path / name, predictions)
    run(
        jobs.score.main,
        *("--predictions", tmp_path / name, "--truth", tmp_path / "truth.mat"),
        *("--json", tmp_path / "scores.json"),
    )
    output = capsys.readouterr().out
    assert output.startswith("2 people of truth.mat\n")
    rows = {line[:16].strip(): line[16:].split() for line in output.splitlines() if line[16:]}
    assert rows["joint"] == ["PCKh@0.5", "PCKh@0.1", "annotated"]
    assert rows["right_ankle"] == ["50.00", "0.00", "2"]
    assert rows["left_wrist"] == ["100.00", "50.00", "2"]
    assert rows["pelvis"] == ["0.00", "0.00", "1"]
    assert rows["ankle"] == ["75.00", "50.00"]
    # 27 of 28, and 25 of 28; the pelvis is no part of it.
    assert rows["pooled mean"] == ["96.43", "89.29"]
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["pooled"]["0.5"] == pytest.approx(100 * 27 / 28)
    assert content["pooled"]["0.1"] == pytest.approx(100 * 25 / 28)
    assert content["unweighted"]["0.5"] == pytest.approx(100 * 27 / 28)
    assert content["joints"]["0.1"]["left_wrist"] == 50.0
    assert content["groups"]["0.5"]["ankle"] == 75.0
    assert content["annotated"]["pelvis"] == 1
    assert content["measure"] == "pckh"


def test_predictions_of_another_shape_are_refused(tmp_path, capsys):
    joints = write_truth(tmp_path / "truth.mat")
    path = tmp_path / "predictions.mat"
    write_predictions(path, joints[:1])
    arguments = ("--predictions", path, "--truth", tmp_path / "truth.mat")
    message = error_on_failure(capsys, jobs.score.main, *arguments)
    assert message == f"error: {path}: preds has shape (1, 16, 2), expected (2, 16, 2)"
    scipy.io.savemat(path, {"predictions": joints})
    message = error_on_failure(capsys, jobs.score.main, *arguments)
    assert message == f"error: {path}: field 'preds' is absent"


# Published: groups in the order of the table, then pooled, unweighted, pooled at 0.1, and the area.
_PUBLISHED = {
    "bearpaw-hg_s1_b1.mat": (
        *(95.12, 93.61, 85.53, 79.56, 84.51, 78.28, 73.38),
        *(85.08, 84.46, 22.81, 55.52),
    ),
    "bearpaw-hg_s2_b1.mat": (
        *(95.80, 94.57, 88.12, 83.31, 86.24, 80.88, 77.44),
        *(87.30, 86.76, 23.91, 57.38),
    ),
}
_GROUPS = ("head", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


@pytest.mark.parametrize("name", _PUBLISHED)
def test_published_predictions_get_their_known_scores(tmp_path, mpii_dir, name):
    run(
        jobs.score.main,
        *("--predictions", mpii_dir / name),
        *("--truth", mpii_dir / "detections_our_format.mat"),
        *("--json", tmp_path / "scores.json"),
    )
    content = json.loads((tmp_path / "scores.json").read_text())
    found = [content["groups"]["0.5"][group] for group in _GROUPS]
    found += [content["pooled"]["0.5"], content["unweighted"]["0.5"]]
    found += [content["pooled"]["0.1"], content["auc"]]
    assert found == pytest.approx(_PUBLISHED[name], abs=0.01)
    assert len(content["joints"]["0.5"]) == 16


# Evaluating


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A tiny network that has learned nothing, saved as after two epochs."""
    return saved(tmp_path)


def saved(tmp_path: Path, metrics: dict[str, float] | None = None, **changes) -> Path:
    settings = Settings.from_flat(
        {
            "model.stacks": 1,
            "model.features": 8,
            "model.joints": 16,
            "model.input_px": 64,
            "evaluation.batch_size": 2,
        }
        | changes
    )
    network = build_network(settings.model, 0, CPU)
    metadata = CheckpointMetadata(
        settings=settings, joint_set=MPII, progress=Progress(epochs=2), metrics=metrics or {}
    )
    folder = tmp_path / "epoch_0002"
    folder.mkdir()
    write_checkpoint(
        folder, take_snapshot(network, metadata, optimizer=build_optimizer(network, settings.optim))
    )
    return folder


def test_a_checkpoint_is_measured_beside_a_constant_pose(tmp_path, capsys, checkpoint):
    figures, path = tmp_path / "figures" / "new", tmp_path / "scores.json"
    shards = packed(tmp_path)
    options = ("--threads", 1, "--figures", figures, "--json", path)
    run(jobs.evaluate.main, "--checkpoint", checkpoint, *shards, *options)
    output = capsys.readouterr().out
    assert output.count("\nnetwork\njoint ") == output.count("\nconstant pose\njoint ") == 2
    assert f"written: {path}\n" in output
    content = json.loads(path.read_text())
    assert (content["people"], content["flip_test"]) == (3, True)
    assert content["loss"] > 0
    assert sorted(content["network"]) == ["pck_torso", "pckh"]
    assert content["network"]["pckh"]["annotated"]["pelvis"] == 3
    # Everybody stands alike, so the mean of the training people is exact.
    assert content["constant_pose"]["pckh"]["pooled"] == {"0.5": 100.0, "0.1": 100.0}
    assert content["network"]["pckh"]["pooled"]["0.1"] < 50
    assert sorted(file.name for file in figures.iterdir()) == [
        "joints.png",
        "overlay.png",
        "stacks.png",
        "thresholds.png",
        "worst.png",
    ]


def test_the_network_is_measured_alone_without_training_shards(tmp_path, capsys, checkpoint):
    _, _, *validation = packed(tmp_path)
    options = ("--threads", 1, "--evaluation.flip-test", "false", "--json", tmp_path / "s.json")
    run(jobs.evaluate.main, "--checkpoint", checkpoint, *validation, *options)
    assert "constant pose" not in capsys.readouterr().out
    content = json.loads((tmp_path / "s.json").read_text())
    assert "constant_pose" not in content
    assert (content["flip_test"], content["decoding"]) == (False, "quarter")


def test_every_stack_is_measured(tmp_path, capsys):
    _, _, *validation = packed(tmp_path)
    folder = saved(tmp_path, **{"model.stacks": 3})
    options = ("--threads", 1, "--json", tmp_path / "s.json", "--every-stack")
    run(jobs.evaluate.main, "--checkpoint", folder, *validation, *options)
    output = capsys.readouterr().out
    assert output.count("\nnetwork\njoint ") == 2
    rows = re.findall(r"^(\d/3) +(\S+)", output, re.M)
    assert [row[0] for row in rows] == ["1/3", "2/3", "3/3"] * 2
    content = json.loads((tmp_path / "s.json").read_text())
    assert len(content["stacks"]) == 3
    assert content["stacks"][-1] == content["network"]
    assert f"{content['stacks'][0]['pckh']['pooled']['0.5']:.2f}" == rows[0][1]


def test_a_network_cut_to_its_first_stacks_is_measured_as_that_stack(tmp_path, capsys):
    _, _, *validation = packed(tmp_path)
    folder = saved(tmp_path, **{"model.stacks": 3})
    options = (folder, *validation, "--threads", 1, "--json")
    run(jobs.evaluate.main, *options, tmp_path / "whole.json", "--every-stack")
    run(jobs.evaluate.main, *options, tmp_path / "cut.json", "--stacks", 2)
    assert f"checkpoint: {folder}, cut to 2 stacks\n" in capsys.readouterr().out
    whole, cut = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("whole", "cut"))
    assert cut["network"] == whole["stacks"][1]
    assert cut["checkpoint"] == f"{folder}, cut to 2 stacks"
    message = error_on_failure(capsys, jobs.evaluate.main, *options[:-1], "--stacks", 4)
    assert message == f"error: --stacks must be from 1 to the 3 stacks of {folder}, got 4"


def test_people_are_written_beside_a_checkpoint_that_lacks_them(tmp_path, capsys, checkpoint):
    _, _, *validation = packed(tmp_path)
    people, path = checkpoint / "people.npz", tmp_path / "s.json"
    arguments = ("--checkpoint", checkpoint, *validation, "--threads", 1)
    run(jobs.evaluate.main, *arguments, "--people", people, "--json", path, "--every-stack")
    assert f"written: {people}\n" in capsys.readouterr().out
    cases = read_results(people)
    assert cases.keys == ("photo-006_00", "photo-007_00", "photo-008_00")
    counted = json.loads(path.read_text())["network"]["pckh"]
    assert (
        scores(cases.counts(MPII.measure("pckh")), MPII, MPII.measure("pckh")).as_dict() == counted
    )
    # It is none of the files that the checkpoint was written with; those stay as they are.
    assert check_sound(checkpoint).progress.epochs == 2
    weights = checkpoint / "weights.safetensors"
    message = error_on_failure(capsys, jobs.evaluate.main, *arguments, "--people", weights)
    assert (
        message == f"error: --people {weights}: belongs to the checkpoint there; give another file"
    )


@pytest.mark.parametrize("model", ["pose", "runs/pose", "runs/pose/epoch_0002"])
def test_a_run_is_measured_by_its_best_checkpoint(tmp_path, capsys, working_folder, model):
    (working_folder / "runs" / "pose").mkdir(parents=True)
    for epoch, value in (("epoch_0001", 30.0), ("epoch_0002", 50.0), ("epoch_0003", 40.0)):
        folder = tmp_path / "made" / epoch
        folder.mkdir(parents=True)
        made = saved(folder, metrics={"pckh_0.5": value})
        made.rename(working_folder / "runs" / "pose" / epoch)
    _, _, *validation = packed(tmp_path)
    run(jobs.evaluate.main, model, *validation, "--threads", 1, "--json", tmp_path / "s.json")
    output = capsys.readouterr().out
    [found] = re.findall("^checkpoint: (.+)$", output, re.M)
    assert Path(found).resolve() == working_folder / "runs" / "pose" / "epoch_0002"
    assert json.loads((tmp_path / "s.json").read_text())["checkpoint"] == found


@pytest.mark.parametrize("decoding", ["argmax", "dark"])
def test_a_checkpoint_is_measured_by_the_decoding_that_is_given(tmp_path, checkpoint, decoding):
    _, _, *validation = packed(tmp_path)
    options = ("--threads", 1, "--json", tmp_path / "s.json", "--evaluation.decoding", decoding)
    run(jobs.evaluate.main, "--checkpoint", checkpoint, *validation, *options)
    assert json.loads((tmp_path / "s.json").read_text())["decoding"] == decoding


def test_either_weights_can_be_measured(tmp_path, capsys, checkpoint):
    _, _, *validation = packed(tmp_path)
    path = tmp_path / "s.json"
    arguments = ("--checkpoint", checkpoint, *validation, "--threads", 1, "--json", path)
    message = error_on_failure(capsys, jobs.evaluate.main, *arguments, "--weights", "ema")
    assert (
        message
        == f"error: {checkpoint}: no ema.safetensors: it was trained with optim.ema_samples=0"
    )
    model = load_network(checkpoint, CPU)[1].settings.model
    other = build_network(model, 5, CPU, zero_heads=False)
    save_file({n: t.contiguous() for n, t in other.state_dict().items()}, checkpoint / AVERAGE_NAME)
    found = {}
    for weights in ("raw", "ema", "auto"):
        run(jobs.evaluate.main, *arguments, "--weights", weights)
        found[weights] = json.loads(path.read_text())
    assert [found[weights]["weights"] for weights in found] == ["raw", "ema", "ema"]
    assert found["raw"]["loss"] != found["ema"]["loss"] == found["auto"]["loss"]


@pytest.mark.slow
def test_people_without_heads_are_drawn_by_a_measure_that_they_have(tmp_path, capsys, checkpoint):
    _, _, *validation = packed(tmp_path, head_size=None)
    options = ("--threads", 1, "--figures", tmp_path / "figures")
    run(jobs.evaluate.main, "--checkpoint", checkpoint, *validation, *options)
    assert "PCK-torso@0.2" in capsys.readouterr().out
    assert (tmp_path / "figures" / "joints.png").exists()


def test_people_on_whom_no_measure_is_defined_are_refused(tmp_path, capsys, checkpoint):
    states = [Visibility.VISIBLE] * 16
    states[MPII.joints.index("right_hip")] = Visibility.MISSING
    _, _, *validation = packed(tmp_path, head_size=None, visibility=tuple(states))
    options = ("--checkpoint", checkpoint, *validation, "--threads", 1)
    message = error_on_failure(capsys, jobs.evaluate.main, *options)
    assert "none of 3 people has a head size or both left_shoulder and right_hip, so" in message


@pytest.mark.parametrize("setting", ["data.val", "data.train"])
def test_shards_of_other_joints_are_refused(tmp_path, capsys, checkpoint, setting):
    ours, theirs = packed(tmp_path), packed(tmp_path, LSP)
    position = ours.index(f"--{setting}") + 1
    shards = [*ours[:position], theirs[position], *ours[position + 1 :]]
    message = error_on_failure(capsys, jobs.evaluate.main, "--checkpoint", checkpoint, *shards)
    assert message == (
        f"error: {setting}={theirs[position]!r} and the checkpoint have different joint sets: "
        "lsp and mpii; expected the same"
    )


def test_no_threads_are_refused(capsys, checkpoint):
    arguments = ("--checkpoint", checkpoint, "--data.val", "v", "--threads", 0)
    message = error_on_failure(capsys, jobs.evaluate.main, *arguments)
    assert message == "error: --threads must be at least 1, got 0"
