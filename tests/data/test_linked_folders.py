"""Links in folders of annotations: those within a folder are followed, none out of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tool_files import FILES, coco, pictures

from pipeline.data.packing_plan import PackPlan, plan_packing
from pipeline.inference.sources import find_sources
from pipeline.settings.packing import PackSettings


def roboflow(folder: Path) -> None:
    for split in ("train", "valid"):
        coco(folder / split).rename(folder / split / "_annotations.coco.json")


def with_list(folder: Path) -> None:
    path = FILES["yolo-pose"](folder)
    path.write_text(path.read_text().replace("train: images/train", "train: train.txt"))
    (folder / "train.txt").write_text("./images/train/a.png\n./images/train/b.png\n")


def with_order(folder: Path) -> None:
    FILES["label-studio"](folder)
    labels = "".join(f'<Label value="{name}"/>' for name in ("tail", "snout", "leftear"))
    text = f'<View><KeyPointLabels name="k">{labels}<Label value="rightear"/></KeyPointLabels>'
    (folder / "config.xml").write_text(f"{text}</View>")


@dataclass(frozen=True)
class Dataset:
    """How a folder is made, and its files and folders that are read."""

    make: Callable[[Path], object]
    read: tuple[str, ...]


TABLE = "labeled-data/m1/CollectedData_me"
FOLDERS = {
    "coco": Dataset(coco, ("mice.json", "a.png")),
    "roboflow": Dataset(roboflow, ("train", "valid/_annotations.coco.json", "valid/b.png")),
    "yolo-pose": Dataset(
        FILES["yolo-pose"],
        (
            *("data.yaml", "labels", "labels/train", "labels/train/a.txt"),
            *("images", "images/train", "images/train/b.png"),
        ),
    ),
    "yolo-pose by a list": Dataset(with_list, ("train.txt", "labels/train/b.txt")),
    "deeplabcut": Dataset(
        FILES["deeplabcut"], ("config.yaml", "labeled-data", "labeled-data/m1", f"{TABLE}.csv")
    ),
    "deeplabcut-h5": Dataset(FILES["deeplabcut-h5"], ("labeled-data/m1", f"{TABLE}.h5")),
    "cvat": Dataset(FILES["cvat"], ("annotations.xml",)),
    "label-studio": Dataset(with_order, ("tasks.json", "config.xml", "b.png")),
    "sleap": Dataset(FILES["sleap"], ("mice.slp", "mice.mp4")),
    "sleap-package": Dataset(FILES["sleap-package"], ("mice.pkg.slp",)),
}
READ = [(name, entry) for name, dataset in FOLDERS.items() for entry in dataset.read]
# Where this one leads out, joints have another order.
NEEDED = [(name, entry) for name, entry in READ if entry != "config.xml"]


def plan_of(path: Path, out: Path, **options: object) -> PackPlan:
    defaults = {"split": "train", "max_left_out": 0.0}
    return plan_packing(PackSettings(source=str(path), out=out, **defaults | options))


def moved(entry: Path, to: Path) -> None:
    """Move a file or folder, and leave a link in its place."""
    to.parent.mkdir(parents=True, exist_ok=True)
    entry.rename(to)
    entry.symlink_to(os.path.relpath(to, entry.parent))


@pytest.mark.parametrize(("name", "entry"), READ)
def test_a_link_within_a_dataset_is_followed(tmp_path, name, entry):
    FOLDERS[name].make(tmp_path / "in")
    before = plan_of(tmp_path / "in", tmp_path / "out")
    # Deeper than files of annotations are looked for.
    moved(tmp_path / "in" / entry, tmp_path / "in/one/two/three" / Path(entry).name)
    after = plan_of(tmp_path / "in", tmp_path / "out")
    assert (after.jobs, after.joint_set) == (before.jobs, before.joint_set)


@pytest.mark.parametrize("chain", [0, 2], ids=["a link", "a chain of links"])
@pytest.mark.parametrize(("name", "entry"), NEEDED)
def test_a_link_out_of_a_dataset_is_refused(tmp_path, name, entry, chain):
    FOLDERS[name].make(tmp_path / "in")
    path = tmp_path / "in" / entry
    for number in range(chain):
        moved(path, tmp_path / "in/one/two/three" / f"{number}{path.suffix}")
        path = path.resolve()
    moved(path, tmp_path / "outside" / f"private{path.suffix}")
    with pytest.raises(ValueError, match=rf"leads out of {tmp_path}/in\S* by a link, .*cp -rL"):
        plan_of(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_link_out_of_a_dataset_that_is_not_needed_is_passed_over(tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.yaml").write_text("kpt_shape: [4, 3]\nbodyparts: [a]\n")
    coco(outside).rename(outside / "x.json")
    FILES["label-studio"](outside / "tasks").rename(outside / "tasks.json")
    with_order(outside / "order")
    text = (outside / "order/config.xml").read_text()
    (outside / "x.xml").write_text(text)
    (outside / "x.txt").write_text("0 0.5 0.5 0.5 0.5 0.5 0.5 2\n")
    FOLDERS[name].make(tmp_path / "in")
    before = plan_of(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in/raw").symlink_to(outside)
    for folder in (tmp_path / "in", *(tmp_path / "in").glob("labels/train")):
        for file in outside.glob("x.*"):
            (folder / f"notes{file.suffix}").symlink_to(file)
    after = plan_of(tmp_path / "in", tmp_path / "out")
    assert (after.jobs, after.joint_set) == (before.jobs, before.joint_set)


def test_an_order_of_joints_that_lies_outside_is_not_read(tmp_path):
    with_order(tmp_path / "in")
    moved(tmp_path / "in/config.xml", tmp_path / "outside/config.xml")
    plan = plan_of(tmp_path / "in/tasks.json", tmp_path / "out")
    assert plan.joint_set.joints[0] == "snout"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_dataset_that_is_itself_reached_by_a_link_is_read(tmp_path, name):
    FOLDERS[name].make(tmp_path / "in")
    (tmp_path / "given").symlink_to("in")
    assert plan_of(tmp_path / "given", tmp_path / "out").people >= 2


@pytest.mark.parametrize("name", ["data.yaml", "."])
@pytest.mark.parametrize("given", ["images", "images/train"])
def test_pictures_of_yolo_may_lie_elsewhere_where_they_are_named(tmp_path, name, given):
    FILES["yolo-pose"](tmp_path / "in")
    moved(tmp_path / "in/images", tmp_path / "elsewhere/pictures")
    images = tmp_path / "in" / given
    content = (tmp_path / "in/data.yaml").read_text()
    if given == "images/train":
        content = content.replace("images/train", "train.txt")
        (images / "train.txt").write_text("a.png\nb.png\n")
    (tmp_path / "in/data.yaml").write_text(content)
    plan = plan_of(tmp_path / "in" / name, tmp_path / "out", images=images)
    assert plan.people == 2
    # The labels are beside the folder of pictures, and may not lead out of theirs.
    for number, entry in enumerate(("labels/train/a.txt", "labels")):
        moved(tmp_path / "in" / entry, tmp_path / "outside" / str(number))
        with pytest.raises(ValueError, match=r"leads out of \S* by a link"):
            plan_of(tmp_path / "in" / name, tmp_path / "out", images=images)


@pytest.mark.parametrize("name", ["data.yaml", "config.yaml", "mice.json"])
def test_a_file_that_is_named_may_be_a_link(tmp_path, name):
    make = {"data.yaml": "yolo-pose", "config.yaml": "deeplabcut", "mice.json": "coco"}
    FILES[make[name]](tmp_path / "in")
    moved(tmp_path / "in" / name, tmp_path / "outside" / name)
    assert plan_of(tmp_path / "in" / name, tmp_path / "out").people == 2


@pytest.mark.parametrize("folder", ["photographs", "images", "images/day"])
def test_photographs_that_are_found_by_a_link_are_to_be_named(tmp_path, folder):
    coco(tmp_path / "in")
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).unlink()
    pictures(tmp_path / "in" / folder)
    path = tmp_path / "in/mice.json"
    assert plan_of(path, tmp_path / "out").settings.images == tmp_path / "in" / folder
    moved(tmp_path / "in" / folder, tmp_path / "outside")
    with pytest.raises(
        ValueError, match=rf"leads out of .* by a link, .*give --images \S*{folder}"
    ):
        plan_of(path, tmp_path / "out")
    assert plan_of(path, tmp_path / "out", images=tmp_path / "in" / folder).people == 2


def test_a_folder_to_predict_has_no_link_that_leads_out_of_it(tmp_path):
    pictures(tmp_path / "in/day")
    pictures(tmp_path / "outside")
    (tmp_path / "in/c.png").symlink_to("day/a.png")
    (tmp_path / "given").symlink_to("in")
    assert len(find_sources([str(tmp_path / "given")]).files) == 3
    (tmp_path / "outside/README.md").write_text("text")
    (tmp_path / "in/README.md").symlink_to(tmp_path / "outside/README.md")
    found = find_sources([str(tmp_path / "in")])
    assert (len(found.files), found.others) == (3, 1)
    (tmp_path / "in/d.png").symlink_to(tmp_path / "outside/a.png")
    with pytest.raises(ValueError, match=r"INPUT='\S*in': \S*d.png leads out of .* by a glob"):
        find_sources([str(tmp_path / "in")])
    assert len(find_sources([f"{tmp_path}/in/*.png"]).files) == 2
