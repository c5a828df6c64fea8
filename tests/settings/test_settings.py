"""Settings: the dotted key is the contract, and every error names it."""

import dataclasses
import re

import pytest

from pipeline.settings import (
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    OptimSettings,
    RaySettings,
    Settings,
    TrackingSettings,
)


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelSettings(stacks=0), "model.stacks must be at least 1, got 0"),
        (lambda: ModelSettings(joints=-1), "model.joints must be at least 0, got -1"),
        (
            lambda: ModelSettings(features=255),
            "model.features must be a positive multiple of 4, got 255",
        ),
        (
            lambda: ModelSettings(stem_features=-2),
            "model.stem_features must be 0 or a positive multiple of 2, got -2",
        ),
        (
            lambda: ModelSettings(stem_features=129),
            "model.stem_features must be 0 or a positive multiple of 2, got 129",
        ),
        (
            lambda: ModelSettings(input_px=96),
            "model.input_px must be a positive multiple of 64 (4 * 2**model.order), got 96",
        ),
        (
            lambda: ModelSettings(input_px=0),
            "model.input_px must be a positive multiple of 64 (4 * 2**model.order), got 0",
        ),
        (
            lambda: ModelSettings(supervision="inside"),
            "model.stacks must be 1 with model.supervision=inside, got 8",
        ),
        (
            lambda: ModelSettings(supervision="inside", stacks=1, order=2),
            "model.order must be at least 3 with model.supervision=inside, to have two "
            "resolutions between the lowest and the output's, got 2",
        ),
        (lambda: DataSettings(seed=-1), "data.seed must be at least 0, got -1"),
        (lambda: DataSettings(threads=0), "data.threads must be at least 1, got 0"),
        (
            lambda: DataSettings(shuffle_window=0),
            "data.shuffle_window must be at least 1, got 0",
        ),
        (lambda: DataSettings(scale_jitter=1.5), "data.scale_jitter must be from 0 to 1, got 1.5"),
        (
            lambda: DataSettings(rotation_deg=91.0),
            "data.rotation_deg must be from 0 to 90 degrees, got 91.0",
        ),
        (lambda: DataSettings(flip_share=-0.1), "data.flip_share must be from 0 to 1, got -0.1"),
        (
            lambda: DataSettings(rotation_share=1.1),
            "data.rotation_share must be from 0 to 1, got 1.1",
        ),
        (lambda: DataSettings(color_jitter=2.0), "data.color_jitter must be from 0 to 1, got 2.0"),
        (
            lambda: OptimSettings(learning_rate=0.0),
            "optim.learning_rate must be above 0, got 0.0",
        ),
        (
            lambda: OptimSettings(learning_rate=float("nan")),
            "optim.learning_rate must be above 0, got nan",
        ),
        (
            lambda: OptimSettings(weight_decay=-1.0),
            "optim.weight_decay must be at least 0, got -1.0",
        ),
        (lambda: OptimSettings(patience=0), "optim.patience must be at least 1, got 0"),
        (
            lambda: OptimSettings(reference_batch=0),
            "optim.reference_batch must be at least 1, got 0",
        ),
        (
            lambda: OptimSettings(warmup_samples=-1),
            "optim.warmup_samples must be at least 0, got -1",
        ),
        (lambda: OptimSettings(ema_samples=-1), "optim.ema_samples must be at least 0, got -1"),
        (lambda: OptimSettings(accumulate=0), "optim.accumulate must be at least 1, got 0"),
        (lambda: OptimSettings(clip_norm=-1.0), "optim.clip_norm must be at least 0, got -1.0"),
        (lambda: OptimSettings(cosine_end=1.5), "optim.cosine_end must be from 0 to 1, got 1.5"),
        (lambda: OptimSettings(epochs=0), "optim.epochs must be at least 1, got 0"),
        (lambda: OptimSettings(sigma_px=0.0), "optim.sigma_px must be above 0, got 0.0"),
        (
            lambda: EvaluationSettings(batch_size=0),
            "evaluation.batch_size must be at least 1, got 0",
        ),
        *(
            (
                lambda workers=workers: RaySettings(workers=workers),
                f"ray.workers must be at least 1, or a range such as 1:4, got {workers!r}",
            )
            for workers in (0, "2", "0:4", "4:1", "2:2", "1-4", "1:")
        ),
        (lambda: RaySettings(cpus_per_worker=0.0), "ray.cpus_per_worker must be above 0, got 0.0"),
        (
            lambda: RaySettings(gpus_per_worker=-1.0),
            "ray.gpus_per_worker must be at least 0, got -1.0",
        ),
        (
            lambda: RaySettings(name="a/b"),
            "ray.name must be made of letters, digits, '.', '_' and '-', got 'a/b'",
        ),
        (
            lambda: TrackingSettings(experiment=""),
            "tracking.experiment must be a name, got ''",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_dotted_key(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_a_shallower_hourglass_allows_a_smaller_input():
    assert ModelSettings(order=1, input_px=8).heatmap_px == 2


def test_the_batch_divides_among_the_workers():
    with pytest.raises(
        ValueError, match=r"^optim.batch_size must be a multiple of ray.workers=4, got 6$"
    ):
        Settings(ray=RaySettings(workers=4))
    assert Settings.from_flat({"ray.workers": 4, "optim.batch_size": 8}).ray.workers == 4


def test_each_workers_share_divides_into_its_parts():
    with pytest.raises(
        ValueError,
        match=r"^optim.batch_size must be a multiple of ray.workers=2 times optim.accumulate=3, got 8$",
    ):
        Settings.from_flat({"ray.workers": 2, "optim.accumulate": 3, "optim.batch_size": 8})
    settings = {"ray.workers": 2, "optim.accumulate": 2, "optim.batch_size": 8}
    assert Settings.from_flat(settings).optim.accumulate == 2


def test_elastic_workers_are_a_range():
    fixed, elastic = RaySettings(workers=3), RaySettings(workers="1:4")
    assert (fixed.fewest_workers, fixed.most_workers, fixed.is_elastic) == (3, 3, False)
    assert (elastic.fewest_workers, elastic.most_workers, elastic.is_elastic) == (1, 4, True)
    # Shares need not be equal, but nobody's may be empty.
    assert Settings.from_flat({"ray.workers": "1:4", "optim.batch_size": 6}).optim.batch_size == 6
    said = "optim.batch_size must be at least 8 with ray.workers=1:4 times optim.accumulate=2, the most, got 6"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Settings.from_flat({"ray.workers": "1:4", "optim.accumulate": 2})
    streaming = {"data.reading": "streaming", "data.epoch_samples": 60}
    said = "data.reading must be exact with ray.workers=1:4, since streams are made for a number of"
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        Settings.from_flat({"ray.workers": "1:4"} | streaming)


def test_batchnorm_is_synchronised_on_gpus_only():
    said = (
        "optim.sync_batchnorm must be False without ray.gpus_per_worker, since torch synchronises "
        "BatchNorm on GPUs only, got True"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Settings.from_flat({"optim.sync_batchnorm": True})
    Settings.from_flat({"optim.sync_batchnorm": True, "ray.gpus_per_worker": 1.0})


def test_compilation_and_recomputation_exclude_each_other():
    with pytest.raises(
        ValueError, match=r"^optim\.checkpointing must be False with optim\.compile"
    ):
        Settings.from_flat({"optim.compile": True, "optim.checkpointing": True})


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
        (
            {"model.stack": 2},
            "unknown setting 'model.stack'; did you mean 'model.stacks'?",
        ),
        ({"zzz": 2}, "unknown setting 'zzz'"),
        ({"model.stacks": 2.0}, "model.stacks must be of type int, got 2.0"),
        ({"model.stacks": True}, "model.stacks must be of type int, got True"),
        ({"model.stacks": "2"}, "model.stacks must be of type int, got '2'"),
        ({"data.train": None}, "data.train must be of type str, got None"),
        (
            {"optim.optimizer": "sgd"},
            "optim.optimizer must be one of rmsprop, adamw, got 'sgd'",
        ),
    ],
)
def test_a_wrong_key_or_type_is_refused_by_its_dotted_key(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings().replaced(changes)


def test_a_whole_number_passes_as_a_float():
    value = Settings().replaced({"data.rotation_deg": 45}).data.rotation_deg
    assert value == 45.0
    assert type(value) is float


def test_the_fingerprint_names_what_decides_the_outcome():
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
