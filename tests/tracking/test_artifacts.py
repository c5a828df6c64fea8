"""Images in the layout of the MLflow UI's image grid."""

import re

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.tracking.artifacts import lay_out


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "overlay.png"
    Image.new("RGB", (700, 350), "red").save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "laid").mkdir()
    return tmp_path / "laid"


def test_a_picture_has_the_names_that_mlflow_would_give_it(picture, folder, tmp_path, new_database):
    client = MlflowClient(new_database(tmp_path / "mlflow.db"))
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "theirs").as_uri())
    run = client.create_run(experiment).info.run_id
    with Image.open(picture) as opened:
        client.log_image(run, opened, key="overlays", step=3, timestamp=1700, synchronous=True)
    lay_out(picture, "overlays", 3, 1700, folder)
    logged = tmp_path / "theirs" / run / "artifacts" / "images"
    theirs = [re.sub(r"\+[0-9a-f-]{36}", "+ID", name) for name in names(logged)]
    ours = [re.sub(r"\+[0-9a-f-]{36}", "+ID", name) for name in names(folder)]
    assert theirs == [
        "overlays+step+3+timestamp+1700+ID+compressed.webp",
        "overlays+step+3+timestamp+1700+ID.png",
    ]
    assert ours == [theirs[0], theirs[1].replace(".png", ".webp")]
    assert client.get_run(run).data.tags["mlflow.loggedImages"] == "True"
    sizes = []
    for name in names(folder):
        with Image.open(folder / name) as shown:
            assert shown.format == "WEBP"
            sizes.append(shown.size)
    assert sizes == [(350, 175), (700, 350)]


def test_a_picture_that_is_sent_again_replaces_itself_and_no_other(picture, folder):
    lay_out(picture, "overlays", 3, 1700, folder)
    lay_out(picture, "overlays", 3, 1700, folder)
    assert len(names(folder)) == 2
    lay_out(picture, "overlays", 3, 1701, folder)
    lay_out(picture, "overlays", 4, 1701, folder)
    assert len(names(folder)) == 6


@pytest.mark.parametrize("kept", [0, 20, -100])
def test_a_file_that_is_no_picture_is_an_error_that_names_it(picture, folder, kept):
    picture.write_bytes(picture.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"overlay\.png is not a picture: "):
        lay_out(picture, "overlays", 3, 1700, folder)


def test_a_picture_that_is_absent_is_an_os_error(folder, tmp_path):
    with pytest.raises(FileNotFoundError):
        lay_out(tmp_path / "absent.png", "overlays", 3, 1700, folder)
