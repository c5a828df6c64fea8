"""Names from outside stay below their folder."""

import os
import re
from pathlib import Path

import pytest

from pipeline.data.formats.annotations import read_json, read_mat
from pipeline.data.formats.registry import recognise
from pipeline.data.formats.tools.cvat import read_cvat
from pipeline.data.formats.tools.deeplabcut import read_deeplabcut
from pipeline.data.formats.tools.yaml_files import read_yaml
from pipeline.data.photographs.pixels import open_photograph
from pipeline.data.shards.index import Index
from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.per_person import read_results
from pipeline.inference.boxes.files import read_boxes
from pipeline.io.files import open_stream
from pipeline.io.hdf5 import Hdf5File
from pipeline.io.inside import check_files_inside, is_file, path_inside
from pipeline.pose.joint_file import read_joint_file
from pipeline.pose.joint_sets import MPII
from pipeline.run.journal import Journal
from pipeline.run.metadata import read_metadata
from pipeline.settings.config_file import read_config
from pipeline.settings.packing import AnnotationFiles


@pytest.mark.parametrize("name", ["a.jpg", "deep/a.jpg", "./a.jpg", "..a", "not-there/b.jpg"])
def test_a_relative_name_is_a_path_in_the_folder(tmp_path, name):
    assert path_inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "", ".", "a\0b", None, 3])
def test_any_other_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="path"):
        path_inside(tmp_path, name)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000 + "a", "x" * 5000])
def test_a_name_that_no_file_can_have_is_that_of_none(tmp_path, name):
    assert not is_file(path_inside(tmp_path, name))


def checkpoint_of(folder: Path) -> None:
    """Read a checkpoint that is whole but for one file."""
    (folder / "checkpoint.json").touch()
    read_metadata(folder)


READERS = {
    "weights.safetensors": checkpoint_of,
    "checkpoint.json": read_metadata,
    "journal.jsonl": lambda folder: Journal(folder).entries(),
    "people.npz": lambda folder: read_results(folder / "people.npz"),
    "evaluation.json": lambda folder: Evaluation.read(folder / "evaluation.json", MPII),
    "train-0.tar": lambda folder: open_stream(str(folder / "train-0.tar")),
    "index.json": Index.read,
    "horse.toml": lambda folder: read_joint_file(folder / "horse.toml"),
    **{
        f"a.{suffix}": lambda folder, name=f"a.{suffix}": recognise(folder / name)
        for suffix in ("json", "h5", "slp", "mat", "xml", "csv", "yaml")
    },
    **{
        f"b.{suffix}": lambda folder, read=read, name=f"b.{suffix}": read(folder / name)
        for suffix, read in {
            "json": read_json,
            "mat": read_mat,
            "h5": Hdf5File,
            "yaml": read_yaml,
            "csv": read_boxes,
            "parquet": read_boxes,
            "jpg": open_photograph,
            "toml": read_config,
            "xml": lambda path: read_cvat(AnnotationFiles(annotations=path)),
            "txt": lambda path: read_deeplabcut(AnnotationFiles(annotations=path)),
        }.items()
    },
}


# Read in part, or with bounds of their own.
STREAMED = (".tar", ".safetensors", ".h5", ".slp", "a.csv", "a.xml", ".yaml")
STARTS = {".json": b"{", ".mat": b"MATLAB 5.0 MAT-file", ".xml": b"<annotations>"}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["FIFO", "link to a device"])
def test_what_is_no_plain_file_is_refused_and_not_waited_for(tmp_path, name, kind):
    path = tmp_path / name
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=re.escape(f"{path} must be a file, got a device, a FIFO")):
        READERS[name](tmp_path)


@pytest.mark.parametrize("name", [name for name in READERS if not name.endswith(STREAMED)])
def test_a_file_of_more_than_memory_is_refused_before_it_is_read(tmp_path, name):
    path = tmp_path / name
    start = STARTS.get(path.suffix, b"")
    with path.open("wb") as file:
        file.write(start)
        # It takes no room on the disk.
        file.truncate(2**40)
    with pytest.raises(ValueError, match=rf"{path} has 1,099,511,627,776 bytes, expected at most"):
        READERS[name](tmp_path)


def test_a_link_may_lead_to_the_folder_but_not_out_of_it(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "given").symlink_to("folder")
    (tmp_path / "folder" / "out").symlink_to(tmp_path)
    (tmp_path / "folder" / "nowhere").symlink_to(tmp_path / "absent")
    (tmp_path / "folder" / "circle").symlink_to("circle")
    (tmp_path / "folder" / "a").symlink_to("b")
    assert path_inside(tmp_path / "given", "a") == tmp_path / "given" / "a"
    for name in ("out", "out/x", "nowhere", "circle"):
        with pytest.raises(ValueError, match=r"leads out of|can't be reached"):
            path_inside(tmp_path / "given", name)
    with pytest.raises(ValueError, match="leads out of"):
        check_files_inside(tmp_path / "folder", tmp_path / "folder")
