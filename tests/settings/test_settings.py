"""Settings: every error names the dotted key."""

import dataclasses
import re

import pytest

from pipeline.settings import ModelSettings, OptimSettings, RaySettings, Settings
from pipeline.settings.cli import parse


def test_defaults_are_the_papers():
    settings = Settings()
    assert (settings.model.stacks, settings.model.modules) == (8, 1)
    assert (settings.model.order, settings.model.features) == (4, 256)
    assert settings.optim.optimizer == "rmsprop"
    assert settings.optim.learning_rate == 2.5e-4
    assert settings.optim.batch_size == 6
    assert settings.optim.sigma_px == 1.75
    assert settings.optim.missing_joints == "zero"
    assert (settings.optim.loss, settings.optim.target_peak) == ("mse", 1.0)
    assert (settings.data.rotation_deg, settings.data.rotation_share) == (30, 0.4)
    assert settings.data.scale_jitter == 0.25
    assert settings.evaluation.flip_test
    assert settings.evaluation.decoding == "quarter"


def test_a_heatmap_has_a_quarter_of_the_inputs_side():
    assert ModelSettings(input_px=256).heatmap_px == 64
    assert ModelSettings(input_px=64).heatmap_px == 16


NAME = (
    "made of letters, digits, '.', '_' and '-', the first a letter, digit or '_', with at most 200 "
    "in all"
)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.stacks", 0, "at least 1"),
        ("model.joints", -1, "at least 0"),
        ("model.features", 255, "a positive multiple of 4"),
        ("model.stem_features", -2, "0 or a positive multiple of 2"),
        ("model.stem_features", 129, "0 or a positive multiple of 2"),
        ("model.input_px", 96, "a positive multiple of 64 (4 * 2**model.order)"),
        ("model.input_px", 0, "a positive multiple of 64 (4 * 2**model.order)"),
        ("data.seed", -1, "at least 0"),
        ("data.threads", -1, "at least 0"),
        ("data.shuffle_window", 0, "at least 1"),
        ("data.bad_samples", -1, "at least 0"),
        ("data.max_pixels", 0, "at least 1"),
        ("data.cache_gb", 0.0, "above 0"),
        ("data.cache_decoded_gb", -1.0, "at least 0"),
        ("data.epoch_samples", 1, "above 0 with data.reading=streaming, else 0"),
        ("data.scale_jitter", 1.5, "from 0 to 1"),
        ("data.rotation_deg", 91.0, "from 0 to 90 degrees"),
        ("data.flip_share", -0.1, "from 0 to 1"),
        ("data.rotation_share", 1.1, "from 0 to 1"),
        ("data.color_jitter", 2.0, "from 0 to 1"),
        ("optim.learning_rate", 0.0, "above 0"),
        ("optim.learning_rate", float("nan"), "a finite number"),
        ("optim.learning_rate", 10**400, "a finite number"),
        ("optim.weight_decay", -1.0, "at least 0"),
        ("optim.patience", 0, "at least 1"),
        ("optim.stop_after", -1, "at least 0"),
        ("optim.reference_batch", 0, "at least 1"),
        ("optim.batch_size", 0, "at least 1"),
        ("optim.warmup_samples", -1, "at least 0"),
        ("optim.ema_samples", -1, "at least 0"),
        (
            "optim.ema_samples",
            5,
            "0, or at least optim.batch_size=6, as an average over less than a step is none",
        ),
        ("optim.max_bad_steps", -1, "at least 0"),
        ("optim.seed", -1, "at least 0"),
        ("optim.accumulate", 0, "at least 1"),
        ("optim.clip_norm", -1.0, "at least 0"),
        ("optim.cosine_end", 1.5, "from 0 to 1"),
        ("optim.epochs", 0, "at least 1"),
        ("optim.sigma_px", 0.0, "above 0"),
        ("optim.target_peak", 0.0, "above 0"),
        ("evaluation.batch_size", 0, "at least 1"),
        ("evaluation.overlays", 0, "at least 1"),
        *(
            ("ray.workers", workers, "at least 1, or a range such as 1:4")
            for workers in (0, "2", "0:4", "4:1", "2:2", "1-4", "1:")
        ),
        ("ray.cpus_per_worker", -1.0, "at least 0"),
        ("ray.gpus_per_worker", -1.0, "at least 0"),
        ("ray.gpus_per_worker", 2.0, "at most 1, as a worker computes on one GPU"),
        ("ray.hang_minutes", -1.0, "at least 0"),
        ("ray.keep_checkpoints", 0, "at least 1"),
        *(("ray.name", name, NAME) for name in ("a/b", "/a", ".", "..", ".a", "-a", " ", "a\n")),
        ("ray.name", "a" * 201, NAME),
        ("ray.name", "journal.jsonl", "another name, as files of runs and sweeps have this one"),
        ("ray.on_change", "ask", "one of refuse, resume, restart"),
        ("tracking.experiment", "", "a name"),
        ("tracking.models", -1, "at least 0"),
        ("tracking.register", "a b", NAME),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_dotted_key(key, value, expected):
    message = f"{key} must be {expected}, got {value!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings.from_flat({key: value})


def test_a_run_that_waits_for_a_plateau_does_not_end_before_the_rate_drops():
    plateau = {"optim.schedule": "plateau", "optim.patience": 5}
    message = (
        "optim.stop_after must be 0, or above optim.patience=5 with optim.schedule=plateau, as the "
        "rate would never drop, got 5"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings.from_flat(plateau | {"optim.stop_after": 5})
    assert Settings.from_flat(plateau | {"optim.stop_after": 6}).optim.has_stalled(6)
    assert Settings.from_flat({"optim.stop_after": 1}).optim.has_stalled(1)


@pytest.mark.parametrize(
    ("stop_after", "epochs", "since", "ended"),
    [
        (0, 9, 9, ""),
        (0, 10, 9, "after all 10 epochs"),
        (3, 9, 2, ""),
        (
            *(3, 9, 3),
            "early, after epoch 9 of 10: PCKh@0.5 has not improved in 3 epochs "
            "(optim.stop_after=3)",
        ),
        (3, 10, 3, "after all 10 epochs"),
    ],
)
def test_a_run_ends_after_its_epochs_or_after_some_without_improvement(
    stop_after, epochs, since, ended
):
    optim = OptimSettings(epochs=10, stop_after=stop_after)
    assert optim.is_over(epochs, since) == bool(ended)
    expected = ended or f"after epoch {epochs} of 10"
    assert optim.describe_end("PCKh@0.5", epochs, since) == expected


def test_supervision_inside_needs_one_stack_and_two_resolutions():
    inside = {"model.supervision": "inside"}
    message = "model.stacks must be 1 with model.supervision=inside, got 8"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings.from_flat(inside)
    message = (
        "model.order must be at least 3 with model.supervision=inside, to have two resolutions "
        "between the lowest and the output's, got 2"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings.from_flat(inside | {"model.stacks": 1, "model.order": 2})


def test_a_shallower_hourglass_allows_a_smaller_input():
    assert ModelSettings(order=1, input_px=8).heatmap_px == 2


def test_the_batch_divides_among_the_workers():
    with pytest.raises(
        ValueError, match=r"^optim.batch_size must be a multiple of ray.workers=4, got 6$"
    ):
        Settings(ray=RaySettings(workers=4))
    assert Settings.from_flat({"ray.workers": 4, "optim.batch_size": 8}).ray.workers == 4


def test_each_workers_share_divides_into_its_parts():
    parts = "ray.workers=2 times optim.accumulate=3"
    with pytest.raises(
        ValueError, match=f"^optim.batch_size must be a multiple of {parts}, got 8$"
    ):
        Settings.from_flat({"ray.workers": 2, "optim.accumulate": 3, "optim.batch_size": 8})
    settings = {"ray.workers": 2, "optim.accumulate": 2, "optim.batch_size": 8}
    assert Settings.from_flat(settings).optim.accumulate == 2


def test_elastic_workers_are_a_range():
    fixed, elastic = RaySettings(workers=3), RaySettings(workers="1:4")
    assert (fixed.fewest_workers, fixed.most_workers, fixed.is_elastic) == (3, 3, False)
    assert (elastic.fewest_workers, elastic.most_workers, elastic.is_elastic) == (1, 4, True)
    # Shares need not be equal, but none may be empty.
    assert Settings.from_flat({"ray.workers": "1:4", "optim.batch_size": 6}).optim.batch_size == 6
    message = (
        "optim.batch_size must be at least 8 with ray.workers=1:4 times optim.accumulate=2 "
        "(the largest number of workers), got 6"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings.from_flat({"ray.workers": "1:4", "optim.accumulate": 2})
    streaming = {"data.reading": "streaming", "data.epoch_samples": 60}
    message = "data.reading must be exact with ray.workers=1:4, since a stream is split for a fixed"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Settings.from_flat({"ray.workers": "1:4"} | streaming)


def test_decoded_crops_are_kept_of_samples_with_an_index_only():
    message = "data.cache_decoded_gb must be 0 with data.reading=streaming, which tells no sample"
    streaming = {"data.reading": "streaming", "data.epoch_samples": 60}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Settings.from_flat(streaming | {"data.cache_decoded_gb": 1.0})


def test_batchnorm_is_synchronised_on_gpus_only():
    message = (
        "optim.sync_batchnorm must be False without ray.gpus_per_worker, since torch synchronises "
        "BatchNorm on GPUs only, got True"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings.from_flat({"optim.sync_batchnorm": True})
    Settings.from_flat({"optim.sync_batchnorm": True, "ray.gpus_per_worker": 1.0})


@pytest.mark.parametrize("workers", [2, "1:2"])
def test_workers_that_train_together_share_no_gpu(workers):
    message = (
        f"ray.gpus_per_worker must be 0 or 1 with ray.workers={workers}, as workers that train "
        "together share no GPU, got 0.5"
    )
    changes = {"ray.gpus_per_worker": 0.5, "ray.workers": workers}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings.from_flat(changes)
    Settings.from_flat(changes | {"ray.gpus_per_worker": 1.0})
    # A trial of a sweep may share a GPU with other trials.
    Settings.from_flat(changes | {"ray.workers": 1})


def test_compilation_and_recomputation_exclude_each_other():
    with pytest.raises(
        ValueError, match=r"^optim\.checkpointing must be False with optim\.compile"
    ):
        Settings.from_flat({"optim.compile": True, "optim.checkpointing": True})


def test_compilation_and_synchronised_batchnorm_exclude_each_other():
    together = {"optim.compile": True, "optim.sync_batchnorm": True, "ray.gpus_per_worker": 1.0}
    message = r"^optim\.sync_batchnorm must be False with optim\.compile, as its exchange between"
    with pytest.raises(ValueError, match=message):
        Settings.from_flat(together)


def test_flat_names_every_setting_by_its_dotted_key():
    flat = Settings().flat()
    assert flat["model.stacks"] == 8
    assert flat["optim.learning_rate"] == 2.5e-4
    assert flat["tracking.experiment"] == "hourglass"
    sections = dataclasses.fields(Settings)
    assert len(flat) == sum(
        len(dataclasses.fields(getattr(Settings(), section.name))) for section in sections
    )


def test_settings_come_back_from_their_flat_form():
    settings = Settings.from_flat(
        {"model.stacks": 2, "data.train": "out/*.tar", "optim.precision": "bf16"}
    )
    assert settings.model.stacks == 2
    assert settings.data.train == "out/*.tar"
    assert settings.model.features == 256
    assert Settings.from_flat(settings.flat()) == settings


def test_replacing_leaves_the_original_alone():
    original = Settings()
    assert original.replaced({"model.stacks": 1}).model.stacks == 1
    assert original.model.stacks == 8
    with pytest.raises(dataclasses.FrozenInstanceError):
        original.model.stacks = 2


def test_replacing_checks_the_range_too():
    with pytest.raises(ValueError, match=r"^model.stacks must be at least 1, got 0$"):
        Settings().replaced({"model.stacks": 0})


def test_values_that_only_fit_together_are_replaced_together():
    settings = Settings().replaced({"model.order": 1, "model.input_px": 40})
    assert settings.model.heatmap_px == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.stack": 2}, "unknown setting 'model.stack'; did you mean 'model.stacks'?"),
        ({"zzz": 2}, "unknown setting 'zzz'"),
        ({"model.stacks": 2.0}, "model.stacks must be of type int, got 2.0"),
        ({"model.stacks": True}, "model.stacks must be of type int, got True"),
        ({"model.stacks": "2"}, "model.stacks must be of type int, got '2'"),
        ({"data.train": None}, "data.train must be of type str, got None"),
        ({"optim.optimizer": "sgd"}, "optim.optimizer must be one of rmsprop, adamw, got 'sgd'"),
    ],
)
def test_a_wrong_key_or_type_is_refused_by_its_dotted_key(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings().replaced(changes)


def test_a_whole_number_passes_as_a_float():
    value = Settings().replaced({"data.rotation_deg": 45}).data.rotation_deg
    assert value == 45.0
    assert type(value) is float


def test_the_fingerprint_depends_on_settings_that_decide_the_outcome():
    plain = Settings().fingerprint("data")
    assert re.fullmatch("[0-9a-f]{8}", plain)
    assert plain == Settings().fingerprint("data") != Settings().fingerprint("other data")
    for decisive in (
        {"model.stacks": 2},
        {"model.stem_features": 256},
        {"data.seed": 1},
        {"optim.learning_rate": 1e-3},
        {"evaluation.flip_test": False},
        {"ray.workers": 2},
    ):
        assert Settings().replaced(decisive).fingerprint("data") != plain


def test_a_run_from_before_there_was_a_setting_keeps_its_name(monkeypatch):
    decisive = []

    def dumps(content, **_):
        decisive.append(content)
        return ""

    monkeypatch.setattr("pipeline.settings.tree.json.dumps", dumps)
    Settings().fingerprint("data")
    assert "model.features" in decisive[0]
    added = {"model.stem_features", "model.start", "optim.target_px", "optim.norm_weights"}
    assert not (added | {"evaluation.precision"}) & decisive[0].keys()
    Settings.from_flat(
        {"optim.target_px": 7, "optim.norm_weights": "uniform", "evaluation.precision": "tf32"}
    ).fingerprint("data")
    assert decisive[1]["optim.target_px"] == 7
    assert decisive[1]["optim.norm_weights"] == "uniform"
    assert decisive[1]["evaluation.precision"] == "tf32"


def test_what_concerns_one_start_alone_is_not_recorded():
    start = {"ray.take_over": True, "ray.on_change": "restart"}
    assert Settings.from_flat(start).shown() == Settings().shown()
    assert start.keys() == Settings().flat().keys() - Settings().shown().keys()


def test_where_a_run_is_stored_and_how_it_is_executed_does_not_change_its_fingerprint():
    elsewhere = Settings().replaced(
        {
            "ray.storage": "runs",
            "ray.name": "first",
            "data.train": "elsewhere/train-*.tar",
            "ray.cpus_per_worker": 4,
            "ray.max_failures": 0,
            "optim.checkpointing": True,
            "optim.max_bad_steps": 100,
            "tracking.uri": "sqlite:///mlflow.db",
            "tracking.required": False,
        }
    )
    assert elsewhere.fingerprint("data") == Settings().fingerprint("data")


@dataclasses.dataclass(frozen=True)
class Documented:
    """A section."""

    size: int = 1
    """A help text
    (of 2 lines)."""


def test_help_joins_the_lines_of_a_docstring(capsys):
    with pytest.raises(SystemExit):
        parse(Documented, None, ["--help"])
    assert "A help text (of 2 lines)." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--tracking.url=hunter2"], "Unrecognized options: --tracking.url"),
        (["--tracking.url", "hunter2"], "Unrecognized options: --tracking.url, ***"),
        (["--tracking.uri", "http://h", "hunter2"], "Unrecognized options: ***"),
        (["--model.stacks", "http://a:hunter2@h"], "'http://***@h'"),
        (["--model.stacks", "two", "--tracking.url", "hunter2"], "'two'"),
    ],
)
def test_an_error_of_the_command_line_shows_no_secret(monkeypatch, capsys, words, shown):
    # At the end of a line tyro breaks a value, which no search for secrets would then find.
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit) as end:
        parse(Settings, None, words)
    text = "".join(capsys.readouterr().err.replace("│", "").split("\n"))
    assert end.value.code == 2
    assert shown in re.sub(" +", " ", text)
    assert "hunter2" not in text.replace(" ", "")
