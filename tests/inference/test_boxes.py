"""Files of people's boxes: which entries are people, and which pictures they mean."""

import json
import re
from pathlib import Path

import pytest
from factories import touched

from pipeline.inference.boxes.files import read_boxes
from pipeline.inference.predictor import Frame


def coco_file(folder: Path, **changes) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "sub/a.jpg"}],
        "categories": [{"id": 3, "name": "person"}, {"id": 4, "name": "dog"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [10, 20, 80, 160]},
            {"image_id": 8, "category_id": 3, "bbox": [0, 0, 40, 10], "score": 0.5},
            {"image_id": 7, "category_id": 4, "bbox": [0, 0, 5, 5]},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1},
        ],
    } | changes
    path = folder / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_s_annotations_place_the_people_of_each_picture(tmp_path):
    one, two, other = touched(tmp_path, "x/a.jpg", "sub/a.jpg", "x/b.jpg")
    boxes = read_boxes(coco_file(tmp_path))
    assert dict(boxes.left_out) == {"of another category": 1, "crowd": 1}
    matched = boxes.matched([one, two, other])
    [place] = matched.of(one, None)
    assert place.frame == Frame(center=(49.5, 99.5), scale=1.0)
    assert (place.box, place.score) == ((10, 20, 80, 160), None)
    # The longest matching name counts.
    assert [place.score for place in matched.of(two, None)] == [0.5]
    assert matched.of(other, None) == []
    assert [matched.image_id(path) for path in (one, two, other)] == [7, 8, None]
    assert matched.unknown == 0
    assert boxes.matched([other]).unknown == 2


def test_a_name_that_two_pictures_have_is_refused(tmp_path):
    pictures = touched(tmp_path, "x/a.jpg", "y/a.jpg")
    with pytest.raises(ValueError, match=r"'a\.jpg' may be .*x/a\.jpg or .*y/a\.jpg; give paths"):
        read_boxes(coco_file(tmp_path)).matched(pictures)


def test_detections_go_by_the_number_in_the_picture_s_name(tmp_path):
    path = tmp_path / "detections.json"
    row = {"image_id": 397133, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.25}
    path.write_text(json.dumps([row, row | {"category_id": 18}]))
    [picture] = touched(tmp_path, "COCO_val2014_000000397133.jpg")
    matched = read_boxes(path).matched([picture])
    assert [(p.box, p.score) for p in matched.of(picture, None)] == [((1, 2, 3, 4), 0.25)]
    assert matched.image_id(picture) == 397133


def test_a_table_gives_boxes_or_frames_of_pictures_and_videos(tmp_path):
    picture, film = touched(tmp_path, "a.jpg", "film.mp4")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "image,frame,x,y,width,height,score\na.jpg,,10,20,80,160,0.5\nfilm.mp4,3,0,0,10,10,\n"
    )
    matched = read_boxes(boxes).matched([picture, film])
    [place] = matched.of(picture, None)
    assert (place.frame, place.score) == (Frame(center=(49.5, 99.5), scale=1.0), 0.5)
    assert [p.box for p in matched.of(film, 3)] == [(0, 0, 10, 10)]
    assert matched.of(film, 2) == []
    frames = tmp_path / "frames.csv"
    frames.write_text("image,center_x,center_y,scale\na.jpg,5,6,0.5\n")
    [place] = read_boxes(frames).matched([picture]).of(picture, None)
    assert (place.frame, place.box) == (Frame(center=(5, 6), scale=0.5), None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.txt", "", "expected a .json, .csv or .parquet file"),
        ("b.csv", "image,x\n", "columns must be image and either x, y, width, height or center_x"),
        (
            "b.csv",
            "image,x,y,width,height\na,1,2,x,4\n",
            "line 2, column width: expected a number, got 'x'",
        ),
        (
            "b.csv",
            "image,x,y,width,height\na,1,,3,4\n",
            "line 2, column y: expected a number, got nothing",
        ),
        ("b.csv", "image,x,y,width,height\na,1,2,3\n", "line 2: expected 5 cells as in the header"),
        ("b.csv", "image,x,y,width,height\n,1,2,3,4\n", "line 2: image must be a number or a name"),
        (
            "b.csv",
            "image,frame,x,y,width,height\na,1.5,1,2,3,4\n",
            "line 2, column frame: expected a whole number from 0, got '1.5'",
        ),
        ("b.json", "{", "not readable as JSON"),
        ("b.json", "{}", "images"),
        ("b.json", '[{"image_id": 1, "bbox": [1, 2]}]', "[0]: bbox must be [x, y, width, height]"),
        ("b.json", '[{"image_id": [], "bbox": []}]', "[0]: image_id must be a number or a name"),
        (
            "b.json",
            '{"images": [], "annotations": [{"image_id": 3}]}',
            "annotations[0]: image_id 3 is not among the images",
        ),
        (
            "b.json",
            '{"images": [], "annotations": [], '
            '"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}',
            "no category is known to be people's among 1 cat (0 entries), 2 dog (0 entries)",
        ),
    ],
)
def test_boxes_that_can_t_be_read_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{re.escape(message)}"):
        read_boxes(path)


def detections(folder: Path, *rows: dict) -> Path:
    """Write detections; a row has what differs from a box in picture 1 of category 1."""
    one = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    path = folder / "detections.json"
    path.write_text(json.dumps([one | row for row in rows]))
    return path


# Which entries


@pytest.mark.parametrize(
    ("categories", "taken", "sentence"),
    [
        ([1, 1], 2, ""),
        ([0, 0, 0], 3, "entries of category 0 are people, among 0 (3 entries)"),
        ([None, None], 2, ""),
        ([1, 18, 1], 2, "entries of category 1 are people, among 1 (2 entries), 18 (1 entries)"),
        (["1", 1.0, 1], 3, ""),
    ],
)
def test_people_s_category_among_detections(tmp_path, categories, taken, sentence):
    path = detections(tmp_path, *({"category_id": category} for category in categories))
    boxes = read_boxes(path)
    assert (len(boxes.places[1, None]), boxes.category) == (taken, sentence)


@pytest.mark.parametrize("categories", [[0, 1], [2, 3], [0, 17]])
def test_detections_of_several_categories_that_may_be_people_s_are_refused(tmp_path, categories):
    path = detections(tmp_path, *({"category_id": category} for category in categories))
    listed = ", ".join(f"{category} (1 entries)" for category in categories)
    message = f"no category is known to be people's among {listed}; give --boxes-category"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_boxes(path)
    chosen = read_boxes(path, str(categories[1]))
    assert len(chosen.places[1, None]) == 1
    assert chosen.left_out == {"of another category": 1}


@pytest.mark.parametrize("wanted", ["dog", "Dog", "4", "4.0"])
def test_a_category_is_chosen_by_id_or_name(tmp_path, wanted):
    boxes = read_boxes(coco_file(tmp_path), wanted)
    assert [place.box for place in boxes.places["a.jpg", None]] == [(0, 0, 5, 5)]
    assert boxes.category == (
        "entries of category 4 dog are people, among 3 person (3 entries), 4 dog (1 entries)"
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("dgo", "no category 'dgo' among .*; did you mean 'dog'"),
        ("9", "no category '9' among 3 person .*; give --boxes-category with an id or a name"),
    ],
)
def test_a_category_that_the_file_lacks_is_refused(tmp_path, wanted, message):
    with pytest.raises(ValueError, match=message):
        read_boxes(coco_file(tmp_path), wanted)


def test_entries_of_none_of_the_listed_categories_are_refused(tmp_path):
    path = coco_file(tmp_path, categories=[{"id": 1, "name": "Person"}])
    message = (
        r"no entry is of category 1 Person, the categories are 3 \(3 entries\), 4 \(1 entries\)"
    )
    with pytest.raises(ValueError, match=message):
        read_boxes(path)


def test_a_table_has_no_categories(tmp_path):
    with pytest.raises(ValueError, match=r"--boxes-category dog: .+ is a table"):
        read_boxes(tmp_path / "boxes.csv", "dog")


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([5, 5, 0, 0], "of no size"),
        ([5, 5, 10, 0], "of no size"),
        ([5, 5, -3, 4], "of no size"),
        ([], "without a box"),
        (None, "without a box"),
    ],
)
def test_an_empty_box_is_passed_over_and_counted(tmp_path, box, reason):
    boxes = read_boxes(detections(tmp_path, {}, {"bbox": box}))
    assert [place.box for place in boxes.places[1, None]] == [(1, 2, 30, 40)]
    assert boxes.left_out == {reason: 1}
    with pytest.raises(ValueError, match=f"expected people's boxes, got 1 {reason}"):
        read_boxes(detections(tmp_path, {"bbox": box}))


def test_empty_boxes_of_a_table_are_passed_over_too(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text("image,x,y,width,height\na.jpg,1,2,0,4\nb.jpg,,,,\na.jpg,1,2,3,4\n")
    boxes = read_boxes(path)
    assert list(boxes.places) == [("a.jpg", None)]
    assert boxes.left_out == {"of no size": 1, "without a box": 1}


def test_a_row_of_a_packed_table_has_its_frame_else_its_box(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "\ufeffimage , box_x,box_y,box_width,box_height,center_x,center_y,scale,nose_x\n"
        "a.jpg,10,20,80,160,5,6,0.5,1\n\nb\\c.jpg,10,20,80,160,nan,NA,,1\n"
    )
    places = read_boxes(path).places
    assert places["a.jpg", None][0].frame == Frame(center=(5, 6), scale=0.5)
    assert places["b/c.jpg", None][0].box == (10, 20, 80, 160)


# Which pictures


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (1, "im00001.jpg"),
        ("1", "im00001.jpg"),
        (1.0, "im00001.jpg"),
        ("1.0", "im00001.jpg"),
        ("im00001", "im00001.jpg"),
        ("deep/im00001", "deep/im00001.png"),
        ("deep\\im00001.png", "deep/im00001.png"),
        ("000000000012", "000000000012.jpg"),
        ("frame.0001", "frame.0001.jpg"),
        ("ange\u0301lique.jpg", "ang\u00e9lique.jpg"),
        ("ang\u00e9lique", "ange\u0301lique.jpg"),
    ],
)
def test_a_picture_is_meant_by_number_stem_or_name(tmp_path, name, file):
    [picture] = touched(tmp_path, file)
    matched = read_boxes(detections(tmp_path, {"image_id": name})).matched([picture])
    assert len(matched.of(picture, None)) == 1
    assert matched.unknown == 0


def test_boxes_that_are_shares_of_the_picture_are_refused(tmp_path):
    path = detections(tmp_path, {"bbox": [0.1, 0.2, 0.5, 1.5]}, {"bbox": [0, 0, 1, 1]})
    with pytest.raises(ValueError, match="all 2 boxes are below 2 px, as shares of the "):
        read_boxes(path)
    read_boxes(detections(tmp_path, {"bbox": [0.1, 0.2, 0.5, 1.5]}, {"bbox": [0, 0, 1, 2]}))


@pytest.mark.parametrize("name", [[1], {"id": 1}, True, None, 1.5, "", " "])
def test_an_image_id_that_is_no_number_or_name_is_refused(tmp_path, name):
    path = detections(tmp_path, {}, {"image_id": name})
    message = re.escape(f"[1]: image_id must be a number or a name, got {name!r}")
    with pytest.raises(ValueError, match=message):
        read_boxes(path)


def test_annotations_name_an_image_s_id_as_number_or_text(tmp_path):
    path = coco_file(
        tmp_path, images=[{"id": "7", "file_name": "a.jpg"}, {"id": 8.0} | {"file_name": "b.jpg"}]
    )
    boxes = read_boxes(path)
    assert set(boxes.places) == {("a.jpg", None), ("b.jpg", None)}
    assert boxes.ids == {"a.jpg": 7, "b.jpg": 8}


def test_an_id_of_two_categories_is_refused(tmp_path):
    listed = [{"id": 3, "name": "person"}, {"id": 3, "name": "dog"}]
    with pytest.raises(
        ValueError, match=r"categories\[1\]: id 3 belongs to person and to dog, exp"
    ):
        read_boxes(coco_file(tmp_path, categories=listed))


def test_an_id_of_two_images_is_refused(tmp_path):
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": "7", "file_name": "b.jpg"}]
    with pytest.raises(ValueError, match=r"images\[1\]: id 7 belongs to a\.jpg and to b\.jpg"):
        read_boxes(coco_file(tmp_path, images=images))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("IM1.JPG", "im1.jpg"),
        ("im1.png", "im1.jpg"),
        ("Im1", "im1.jpg"),
        ("ferry", None),
        (5, None),
    ],
)
def test_the_nearest_picture_of_an_unknown_name_is_offered(tmp_path, name, nearest):
    pictures = touched(tmp_path, "im1.jpg", "z/other.jpg")
    matched = read_boxes(detections(tmp_path, {"image_id": name})).matched(pictures)
    assert (matched.names, matched.unknown) == ({}, 1)
    assert matched.examples() == f"{name!r}" + (f" (nearest: {nearest})" if nearest else "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": null, "annotations": []}', "images must be a list, got None"),
        ('{"images": [3], "annotations": []}', "images[0] must be an object, got 3"),
        ('{"images": [{"id": 1, "file_name": null}]}', "images[0]: file_name must be a string"),
        ('{"images": [], "annotations": {}}', "annotations must be a list, got {}"),
        ('{"images": [], "annotations": [], "categories": 3}', "categories must be a list, got 3"),
        ("[3]", "[0] must be an object, got 3"),
        ("3", "expected COCO's annotations or detections, got 3"),
        ("{}", "field 'images' is absent"),
        ('[{"bbox": [1, 2, 3, 4]}]', "[0]: field 'image_id' is absent"),
        ('[{"image_id": 1, "bbox": [1, 2, 3, "x"]}]', "[0]: bbox must be a number, got 'x'"),
        ('[{"image_id": 1, "bbox": [NaN, 2, 3, 4]}]', "[0]: a frame needs a finite center"),
        ('[{"image_id": 1, "bbox": "1 2 3 4"}]', "[0]: bbox must be [x, y, width, height]"),
        ('[{"image_id": 1, "category_id": [1], "bbox": []}]', "[0]: category_id must be a number"),
        ("[]", "expected people's boxes, got no entry"),
    ],
)
def test_a_file_of_another_form_is_refused_by_place_and_field(tmp_path, content, message):
    path = tmp_path / "boxes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{re.escape(message)}"):
        read_boxes(path)
