"""Files of settings in TOML, and the options `--config`, `--data` and `--save-config`."""

import re

import pytest
from factories import checkpoint

import jobs.train
from pipeline.settings import Settings
from pipeline.settings.cli import given_settings, parse
from pipeline.settings.config_file import (
    config_text,
    option_words,
    packed_folder,
    read_config,
    reusable,
)
from pipeline.tracking.reuse import settings_of_config


def arguments_of(*words: str) -> jobs.train.Arguments:
    default = jobs.train.Arguments(settings=given_settings([*words], settings_of_config))
    return parse(jobs.train.Arguments, None, [*words], default)


@pytest.fixture
def config(tmp_path):
    def written(text: str) -> str:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return str(path)

    return written


def test_what_is_written_is_read_back(tmp_path, config):
    settings = Settings.from_flat(
        {
            "model.stacks": 2,
            "optim.learning_rate": 1e-5,
            "evaluation.flip_test": False,
            "ray.workers": "1:4",
            "data.train": "a 'quoted' \"folder\" ä/train-*.tar",
        }
    )
    path = config(config_text(settings))
    assert Settings.from_flat(read_config(tmp_path / "settings.toml")) == settings
    assert arguments_of("--config", path).settings == settings


def test_the_defaults_are_an_empty_file():
    assert config_text(Settings()) == ""


def test_secrets_are_not_written(config):
    settings = Settings.from_flat({"tracking.uri": "https://me:secret@host"})
    text = config_text(settings)
    assert "secret@" not in text
    assert arguments_of("--config", config(text)).settings == Settings()


def test_options_win_over_a_packed_folder_which_wins_over_presets_and_these_over_a_file(
    tmp_path, config
):
    (tmp_path / "index.json").touch()
    path = config("model.stacks = 3\nmodel.modules = 2\n[data]\ntrain = 'x'\nval = 'y'\n")
    found = arguments_of(
        *("--config", path, "--data", str(tmp_path)),
        *("--preset", "paper", "--data.val", "z"),
    ).settings
    # `paper` is 8 stacks of 1 module.
    assert (found.model.stacks, found.model.modules) == (8, 1)
    assert found.data.train == f"{tmp_path}/train-*.tar"
    assert found.data.val == "z"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.stack = 2", "unknown setting 'model.stack'; did you mean 'model.stacks'?"),
        ("model.stacks = '2'", "model.stacks must be of type int, got '2'"),
        ("model.stacks = 0", "model.stacks must be at least 1, got 0"),
        ("stacks = 2", "'stacks' is no setting; expected dotted keys"),
        ("model.stacks 2", "Expected '=' after a key"),
        ("model.deep.stacks = 2", "unknown setting 'model.deep'"),
        (r'ray.storage = "a\u0000b"', "ray.storage must be without the character NUL"),
        ("optim.learning_rate = nan", "optim.learning_rate must be a finite number"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name_and_the_setting(config, capsys, text, message):
    path = config(text)
    with pytest.raises(SystemExit) as end:
        arguments_of("--config", path)
    assert end.value.code == 2
    output = capsys.readouterr().err
    assert f"--config {path}: " in output
    assert message in output


def test_a_file_that_can_not_be_written_is_refused_by_its_option(tmp_path):
    arguments = arguments_of("--save-config", str(tmp_path))
    message = f"--save-config {tmp_path}: can't be written: Is a directory"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        arguments.save()


def test_options_name_a_packed_folder_in_place_of_its_two_patterns(tmp_path):
    def options(folder, left_out=()):
        data = {f"data.{split}": f"{folder}/{split}-*.tar" for split in ("train", "val")}
        others = {"evaluation.flip_test": False, "tracking.experiment": "-v"}
        return option_words(Settings.from_flat(data | others), left_out)

    others = ["--evaluation.flip-test", "false", "--tracking.experiment=-v"]
    train, val = f"{tmp_path}/train-*.tar", f"{tmp_path}/val-*.tar"
    assert options(tmp_path) == ["--data.train", train, "--data.val", val, *others]
    (tmp_path / "index.json").touch()
    assert options(tmp_path) == ["--data", str(tmp_path), *others]
    # A sweep that varies the training data.
    assert options(tmp_path, {"data.train"}) == ["--data.val", val, *others]
    assert options("s3://pose/mpii")[:2] == ["--data", "s3://pose/mpii"]
    assert options("https://host/mpii")[0] == "--data.train"


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(
        ValueError, match=r"--config .*settings\.toml: not readable as TOML: 'utf-8' codec"
    ):
        read_config(path)


def test_settings_that_are_nested_too_deeply_are_refused(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("a = " + 2000 * "{b = " + "1" + 2000 * "}")
    with pytest.raises(ValueError, match=r"--config .*settings\.toml: .* nested too deeply"):
        read_config(path)


def test_a_run_gives_its_settings_but_not_its_place_nor_secrets():
    recorded = Settings.from_flat(
        {"model.stacks": 2, "model.joints": 16, "ray.name": "a", "ray.storage": "/runs"}
        | {"tracking.uri": "https://me:secret@host"}
    )
    assert Settings.from_flat(reusable(recorded)) == Settings.from_flat({"model.stacks": 2})


def test_a_run_is_named_as_a_start_is_by_its_place_or_its_name_in_the_storage(tmp_path):
    folder = tmp_path / "runs" / "mine" / "epoch_0001"
    checkpoint(folder, {"pckh_0.5": 40.0}, **{"ray.name": "mine"})
    storage = ["--ray.storage", str(tmp_path / "runs")]
    for words in ([str(folder)], [str(folder.parent)], ["mine", *storage]):
        found = arguments_of("--config", *words).settings
        assert (found.model.stacks, found.model.features, found.ray.name) == (2, 8, "")
    assert found.ray.storage == storage[1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("nowhere", "--config='nowhere': no such folder, and none of this name in "),
        ("nowhere.toml", "--config nowhere.toml: No such file"),
    ],
)
def test_a_config_that_is_nowhere_is_refused(config, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        arguments_of("--config", config)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", r"--data nowhere: no index\.json there"),
        ("http://host/people", "a web server lists no files"),
        ("a,b", "a folder's name must have none of"),
    ],
)
def test_a_folder_that_is_not_packed_is_refused(folder, message):
    with pytest.raises(ValueError, match=message):
        packed_folder(folder)


def test_a_packed_folder_may_be_below_the_home_folder_or_a_url(tmp_path, monkeypatch):
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "index.json").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("~/people", f"file://{tmp_path}/people"):
        assert packed_folder(given)["data.val"] == f"{tmp_path}/people/val-*.tar"


def test_a_bucket_is_a_packed_folder_too():
    assert packed_folder("s3://bucket/people/") == {
        "data.train": "s3://bucket/people/train-*.tar",
        "data.val": "s3://bucket/people/val-*.tar",
    }


def test_save_config_writes_before_it_trains(tmp_path, capsys):
    path = tmp_path / "saved.toml"
    jobs.train.main(["--model.stacks", "2", "--save-config", str(path), "--dry-run"])
    assert path.read_text() == "[model]\nstacks = 2\n"
    assert f"written: {path}" in capsys.readouterr().out
