"""Readers of the datasets' own files: MPII's struct, the authors' HDF5 files, LSP and FLIC."""

import re
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from author_files import (
    NOTHING,
    h5_fields,
    image,
    lsp_array,
    lspet_array,
    point,
    points,
    rect,
    write_h5,
    write_lsp,
    write_release,
)
from PIL import Image

from pipeline.data.formats.lsp import read_lsp, read_lspet
from pipeline.data.formats.mpii_mat import read_mpii_mat
from pipeline.data.formats.pose_h5 import read_flic, read_mpii_h5
from pipeline.data.formats.registry import SOURCES
from pipeline.data.packing_plan import plan_packing
from pipeline.pose.person import Visibility
from pipeline.settings.packing import PackSettings

MISSING, OCCLUDED, VISIBLE = Visibility

# MPII as published: RELEASE


def read_release(tmp_path: Path, *images: dict, **options):
    return read_mpii_mat(write_release(tmp_path / "mpii.mat", list(images), **options))


def test_a_person_of_the_published_mpii_is_zero_based_and_adjusted_once(tmp_path):
    [person] = read_release(tmp_path, image("015601864.jpg", rect())).people
    assert (person.image, person.person, person.split) == ("015601864.jpg", 0, None)
    # 257 + 15 * 3, and both coordinates from 1-based to 0-based.
    assert person.center == (593.0, 301.0)
    assert person.scale == 3.75
    assert person.joints[0] == (100.0, 200.5)
    assert person.joints[15] == (115.0, 215.5)
    assert person.visibility == (VISIBLE, *[MISSING] * 14, VISIBLE)


def test_a_head_size_is_from_the_head_box_of_the_same_file(tmp_path):
    boxed, bare = rect(), rect(x1=NOTHING, y1=NOTHING, x2=NOTHING, y2=NOTHING)
    people = read_release(tmp_path, image("a.jpg", boxed, bare)).people
    assert [person.head_size for person in people] == [pytest.approx(30.0), None]


def test_a_file_without_any_head_box_gives_no_head_size(tmp_path):
    bare = {name: value for name, value in rect().items() if name not in ("x1", "y1", "x2", "y2")}
    assert read_release(tmp_path, image("a.jpg", bare)).people[0].head_size is None


def test_is_visible_is_a_number_or_text_or_empty(tmp_path):
    states = [0, 1, "0", "1", NOTHING, ""]
    marked = points(*(point(k, is_visible=state) for k, state in enumerate(states)))
    [person] = read_release(tmp_path, image("a.jpg", rect(annopoints=marked))).people
    expected = (OCCLUDED, VISIBLE, OCCLUDED, VISIBLE, VISIBLE, VISIBLE)
    assert person.visibility[:6] == expected


def test_a_joint_without_is_visible_is_visible(tmp_path):
    head = [{"x": 5.0, "y": 6.0, "id": joint} for joint in (8, 9)]
    [person] = read_release(tmp_path, image("a.jpg", rect(annopoints=points(*head)))).people
    assert person.visibility[8:10] == (VISIBLE, VISIBLE)
    assert person.visibility.count(MISSING) == 14


def test_a_lone_joint_and_a_lone_image_are_read_like_many(tmp_path):
    [person] = read_release(tmp_path, image("a.jpg", rect(annopoints=points(point(3))))).people
    assert [k for k, state in enumerate(person.visibility) if state] == [3]


def test_joints_at_and_beyond_the_border_are_kept(tmp_path):
    outside = points(point(0, x=0, y=30), point(1, x=-12.5, y=0))
    [person] = read_release(tmp_path, image("a.jpg", rect(annopoints=outside))).people
    assert person.joints[:2] == ((-1.0, 29.0), (-13.5, -1.0))
    assert person.visibility[:2] == (VISIBLE, VISIBLE)


def test_people_without_joints_frame_or_a_training_image_are_counted_by_reason(tmp_path):
    bystander = {name: rect()[name] for name in ("x1", "y1", "x2", "y2")}
    annotations = read_release(
        tmp_path,
        image("a.jpg", bystander, rect(), rect(scale=NOTHING), rect(objpos=NOTHING)),
        image("b.jpg"),
        image("c.jpg", bystander),
        image("d.jpg", rect(annopoints={"point": NOTHING})),
        image("e.jpg", {"scale": 2.0, "objpos": {"x": 5, "y": 6}}, rect()),
        is_training=[1, 1, 1, 1, 0],
    )
    # The index counts those left out, too.
    assert [person.key for person in annotations.people] == ["a_01"]
    assert annotations.skipped == {
        "no annopoints": 2,
        "no scale": 1,
        "no objpos": 1,
        "no annotated joint": 1,
        "person of a test image": 2,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0}, "scale must be above 0, got 0"),
        ({"objpos": {"x": 5}}, "objpos: field 'y' is absent or empty"),
        ({"annopoints": points(point(16))}, "annopoints.point(1).id must be from 0 to 15, got 16"),
        (
            {"annopoints": points(point(0), point(1, x=NOTHING))},
            "annopoints.point(2): field 'x' is absent or empty",
        ),
        (
            {"annopoints": points(point(0, is_visible=2))},
            "annopoints.point(1).is_visible must be 0 or 1, got 2",
        ),
        (
            {"annopoints": points(point(0, y=float("nan")))},
            "annopoints.point(1).y: expected finite numbers, got nan",
        ),
    ],
)
def test_a_bad_field_of_the_published_mpii_is_named_as_matlab_counts(tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape("mpii.mat: annolist(2).annorect(2)")) as error:
        read_release(tmp_path, image("a.jpg"), image("b.jpg", rect(), rect(**change)))
    assert str(error.value).endswith(message)


def test_without_img_train_all_images_are_for_training(tmp_path):
    path = write_release(tmp_path / "mpii.mat", [image("a.jpg", rect())], absent="img_train")
    assert len(read_mpii_mat(path).people) == 1


def test_a_file_that_is_not_mpiis_release_is_refused(tmp_path):
    path = tmp_path / "mpii.mat"
    scipy.io.savemat(path, {"joints": np.zeros(3)})
    with pytest.raises(ValueError, match=r"mpii\.mat: field 'RELEASE' is absent$"):
        read_mpii_mat(path)
    scipy.io.savemat(path, {"RELEASE": np.zeros(3)})
    with pytest.raises(ValueError, match=r"RELEASE: field 'annolist' is absent or empty$"):
        read_mpii_mat(path)
    with pytest.raises(ValueError, match=r"img_train has 1 values, expected 2"):
        read_release(tmp_path, image("a.jpg"), image("b.jpg"), is_training=[1])
    with pytest.raises(ValueError, match=r"annolist\(1\)\.image: field 'name' is absent or empty$"):
        read_release(tmp_path, image(""), image("b.jpg"))


# The HDF5 files of the paper's authors


def externally_stored(file: h5py.File, name: str, folder: Path) -> None:
    del file[name]
    (folder / "other.raw").write_bytes(bytes(16))
    file.create_dataset(name, (2,), "f8", external=[(str(folder / "other.raw"), 0, 16)])


def virtual(file: h5py.File, name: str, folder: Path) -> None:
    del file[name]
    layout = h5py.VirtualLayout((2,), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "scale", shape=(2,))
    file.create_virtual_dataset(name, layout)


def linked(link: h5py.SoftLink | h5py.ExternalLink):
    def put(file: h5py.File, name: str, folder: Path) -> None:
        del file[name]
        file[name] = link

    return put


def dataset_of(shape: tuple[int, ...], dtype: object = "f8", **options):
    def put(file: h5py.File, name: str, folder: Path) -> None:
        del file[name]
        file.create_dataset(name, shape, dtype, **options)

    return put


def one_long_text_many_times(file: h5py.File, name: str, folder: Path) -> None:
    text = "a" * 2**20
    del file[name]
    # Fill values share one text in memory, and each is a copy when it is read.
    file.create_dataset(name, (2**10,), h5py.string_dtype(), fillvalue=text, chunks=(16,))


@pytest.mark.parametrize(
    ("put", "said"),
    [
        (linked(h5py.ExternalLink("other.h5", "scale")), "scale is a link"),
        (linked(h5py.SoftLink("/normalize")), "scale is a link"),
        (externally_stored, "the values of scale are in other files"),
        (virtual, "the values of scale are in other files"),
        (dataset_of((2**37,), chunks=(2**10,)), "scale would take 1,099,511,627,776 bytes"),
        (dataset_of((2,), chunks=(2**28,), maxshape=(None,)), "scale would take 2,147,483,648"),
        (dataset_of((2,), h5py.vlen_dtype("f8")), "scale must hold numbers or text"),
        (one_long_text_many_times, "scale would take"),
    ],
)
def test_a_file_of_hdf5_leads_to_no_other_file_and_fills_no_memory(tmp_path, put, said):
    write_h5(tmp_path / "other.h5", h5_fields())
    path = write_h5(tmp_path / "train.h5", h5_fields())
    with h5py.File(path, "a") as file:
        put(file, "scale", tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"train.h5: .*{said}"):
        read_mpii_h5(path)
    # In KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20


def test_frames_of_the_authors_file_are_not_adjusted_again(tmp_path):
    fields = h5_fields(person=np.array([0.0, 2.0]))
    people = read_mpii_h5(write_h5(tmp_path / "train.h5", fields)).people
    assert [person.key for person in people] == ["000000000_00", "000000001_02"]
    for person in people:
        assert person.center == (499.0, fields["center"][0, 1] - 1)
        assert (person.scale, person.head_size, person.split) == (3.75, 60.0, None)
        assert person.joints[0] == (499.0, 299.0)


def test_a_joint_of_the_authors_file_is_missing_only_where_both_coordinates_are_zero(tmp_path):
    fields = h5_fields()
    fields["part"][0, :4] = [[0, 0], [0, 500], [500, 0], [-12, 350]]
    fields["visible"][0, :5] = 0, 1, 0, 1, 0
    person = read_mpii_h5(write_h5(tmp_path / "train.h5", fields)).people[0]
    assert person.visibility[:6] == (MISSING, VISIBLE, OCCLUDED, VISIBLE, OCCLUDED, VISIBLE)
    assert person.joints[1:4] == ((-1.0, 499.0), (499.0, -1.0), (-13.0, 349.0))


def test_names_may_be_rows_of_character_codes(tmp_path):
    names = [b"005808361.jpg".ljust(16, b"\0"), b"b.jpg".ljust(16, b"\0")]
    codes = np.array([list(name) for name in names])
    for dtype in (np.uint8, np.int64, np.float64):
        path = write_h5(tmp_path / "valid.h5", h5_fields(imgname=codes.astype(dtype)))
        assert [person.image for person in read_mpii_h5(path).people] == ["005808361.jpg", "b.jpg"]


def test_people_without_a_joint_are_counted_and_a_head_size_of_minus_one_is_none(tmp_path):
    fields = h5_fields(3)
    fields["part"][0], fields["visible"][0] = -1, -1
    fields["part"][1], fields["visible"][1] = 0, 0
    fields["normalize"][2] = -1
    annotations = read_mpii_h5(write_h5(tmp_path / "train.h5", fields))
    assert [(person.image, person.head_size) for person in annotations.people] == [
        ("000000002.jpg", None)
    ]
    assert annotations.skipped == {"no annotated joint": 2}


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (3.0, "scale is not adjusted: heads are 33.3 px a unit of scale, expected 24 to 30 "),
        (3.75 * 1.25, "scale is adjusted more than once: heads are 21.3 px a unit of scale, "),
    ],
)
def test_scales_that_are_not_adjusted_once_are_refused(tmp_path, scale, message):
    path = write_h5(tmp_path / "annot.h5", h5_fields(scale=np.full(2, scale)))
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_mpii_h5(path)


def test_centres_that_are_not_adjusted_are_refused_where_people_are_many(tmp_path):
    def raised(people: int) -> Path:
        fields = h5_fields(people)
        fields["center"][:, 1] -= 15 * 3
        return write_h5(tmp_path / "annot.h5", fields)

    with pytest.raises(
        ValueError,
        match=r"annot\.h5: center is not adjusted: it lies -2\.0 px a unit of scale below the "
        r"middle of the joints, expected at least 3\.4$",
    ):
        read_mpii_h5(raised(100))
    assert len(read_mpii_h5(raised(99)).people) == 99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": np.zeros((2, 14, 2))}, "part has shape (2, 14, 2), expected (2, 16, 2)"),
        ({"visible": np.ones((2, 14))}, "visible has shape (2, 14), expected (2, 16)"),
        ({"visible": np.full((2, 16), 2.0)}, "visible must be 0 or 1, got [2.]"),
        ({"center": np.zeros((3, 2))}, "center has shape (3, 2), expected (2, 2)"),
        ({"scale": np.array([3.75, 0.0])}, "scale[1] must be above 0, got 0"),
        ({"normalize": np.array([np.nan, 1])}, "normalize: expected finite numbers, got array"),
        ({"imgname": np.array([b"a.jpg"])}, "imgname has shape (1,), expected (2,) or (2, N)"),
        ({"imgname": np.array([b"a.jpg", b""])}, "imgname[1] is empty"),
        ({"imgname": np.array([b"a", b"\xff"])}, "imgname: not readable as text: "),
    ],
)
def test_a_bad_field_of_the_authors_file_is_named(tmp_path, change, message):
    path = write_h5(tmp_path / "train.h5", h5_fields(**change))
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_mpii_h5(path)


def test_an_absent_field_of_the_authors_file_is_named(tmp_path):
    for name in ("part", "visible", "center", "scale", "normalize", "imgname", "person"):
        fields = h5_fields()
        del fields[name]
        path = write_h5(tmp_path / "train.h5", fields)
        with pytest.raises(ValueError, match=rf"train\.h5: field '{name}' is absent$"):
            read_mpii_h5(path)


def test_a_file_that_is_not_hdf5_is_refused(tmp_path):
    path = tmp_path / "train.h5"
    with pytest.raises(ValueError, match=r"train\.h5: no such file$"):
        read_mpii_h5(path)
    path.write_bytes(b"not HDF5" * 20)
    with pytest.raises(ValueError, match=r"train\.h5: not readable as HDF5: "):
        read_mpii_h5(path)


# FLIC


def test_flics_people_are_numbered_within_their_image(tmp_path):
    names = [b"2-fast-2-furious-00003631.jpg", b"b.jpg", b"2-fast-2-furious-00003631.jpg"]
    fields = h5_fields(3, joints=11, imgname=np.array(names), person=np.zeros(3))
    annotations = read_flic(write_h5(tmp_path / "valid.h5", fields))
    assert annotations.joint_set.name == "flic"
    assert [person.key for person in annotations.people] == [
        "2-fast-2-furious-00003631_00",
        "b_00",
        "2-fast-2-furious-00003631_01",
    ]


def test_frames_of_flic_are_kept_and_the_torso_is_no_head_size(tmp_path):
    fields = h5_fields(joints=11)
    fields["part"][0, 2], fields["visible"][0, 2:4] = (0, 0), 0
    for name in ("index", "person"):
        del fields[name]
    person = read_flic(write_h5(tmp_path / "valid.h5", fields)).people[0]
    assert person.center == (499.0, fields["center"][0, 1] - 1)
    assert (person.scale, person.head_size) == (3.75, None)
    assert person.joints[1] == (499.0, 319.0)
    assert person.visibility[1:5] == (VISIBLE, MISSING, OCCLUDED, VISIBLE)


def test_mpiis_joints_are_not_flics(tmp_path):
    path = write_h5(tmp_path / "valid.h5", h5_fields())
    with pytest.raises(ValueError, match=re.escape("part has shape (2, 16, 2), expected (2, 11")):
        read_flic(path)


# Leeds Sports Pose


def test_a_flag_of_one_means_occluded_in_leeds_sports_pose(tmp_path):
    joints = lsp_array()
    joints[2, [0, 13], 1] = 1
    first, second = read_lsp(write_lsp(tmp_path / "joints.mat", joints)).people
    assert first.visibility == (VISIBLE,) * 14
    assert second.visibility == (OCCLUDED, *[VISIBLE] * 12, OCCLUDED)
    assert first.joints[1] == (15.5, 20.25)
    assert (first.image, second.image) == ("im0001.jpg", "im0002.jpg")
    # Occluded joints are part of the frame.
    assert second.center == (70.5, 130.25)
    assert second.scale == pytest.approx(1.25 * 260 / 200)


def test_the_last_thousand_of_leeds_sports_pose_validate(tmp_path):
    people = read_lsp(write_lsp(tmp_path / "joints.mat", lsp_array(2000))).people
    assert [people[k].split for k in (0, 999, 1000, 1999)] == ["train", "train", "val", "val"]
    assert people[-1].image == "im2000.jpg"
    part = read_lsp(write_lsp(tmp_path / "joints.mat", lsp_array(1000))).people
    assert {person.split for person in part} == {None}


# Leeds Sports Pose Extended


def test_a_flag_of_one_means_visible_in_leeds_sports_pose_extended(tmp_path):
    first, second = read_lspet(write_lsp(tmp_path / "joints.mat", lspet_array())).people
    assert first.visibility == (VISIBLE,) * 14
    assert second.visibility[2:5] == (VISIBLE, MISSING, VISIBLE)
    assert first.joints[1] == (15.5, 20.25)
    assert (first.image, second.image) == ("im00001.jpg", "im00002.jpg")


def test_the_frame_of_leeds_sports_pose_is_derived_from_the_visible_joints(tmp_path):
    people = read_lspet(write_lsp(tmp_path / "joints.mat", lspet_array())).people
    # x from 5.5 to 135.5, y from 0.25 to 260.25; a quarter wider than the height of 260.
    for person in people:
        assert person.center == (70.5, 130.25)
        assert person.scale == pytest.approx(1.25 * 260 / 200)
    assert people[0].head_size is None


def test_a_person_with_a_single_visible_joint_is_counted_and_skipped(tmp_path):
    joints = lspet_array()
    joints[1:, 2, 0] = 0
    annotations = read_lspet(write_lsp(tmp_path / "joints.mat", joints))
    assert [person.image for person in annotations.people] == ["im00002.jpg"]
    assert annotations.skipped == {"fewer than two visible joints": 1}


def test_a_file_that_is_not_matlabs_is_refused(tmp_path):
    path = tmp_path / "joints.mat"
    path.write_bytes(b"not a MATLAB file" * 20)
    with pytest.raises(ValueError, match=r"joints\.mat: not readable as a MATLAB file: "):
        read_lspet(path)
    scipy.io.savemat(path, {"other": np.zeros(3)})
    with pytest.raises(ValueError, match=r"joints\.mat: field 'joints' is absent"):
        read_lspet(path)


@pytest.mark.parametrize(
    ("read", "array", "axes", "message"),
    [
        (
            *(read_lsp, lsp_array(), (1, 0, 2)),
            "(14, 3, 2), expected (3, 14, N) (that is the layout of LSPET, not LSP)",
        ),
        (read_lsp, lsp_array(), (2, 1, 0), "(2, 14, 3), expected (3, 14, N)"),
        (
            *(read_lspet, lspet_array(), (1, 0, 2)),
            "(3, 14, 2), expected (14, 3, N) (that is the layout of LSP, not LSPET)",
        ),
        (read_lspet, lspet_array(), (2, 0, 1), "(2, 14, 3), expected (14, 3, N)"),
    ],
)
def test_wrong_axes_of_leeds_sports_pose_are_refused(tmp_path, read, array, axes, message):
    path = write_lsp(tmp_path / "joints.mat", array.transpose(axes))
    with pytest.raises(ValueError, match=re.escape(f"{path}: joints has shape {message}") + "$"):
        read(path)


@pytest.mark.parametrize(
    ("read", "array", "place", "message"),
    [
        (read_lsp, lsp_array(), (2, 0, 0), r"joints\[2\] must hold flags 0 and 1, got \[0. 2.\]$"),
        (
            *(read_lspet, lspet_array(), (0, 2, 0)),
            r"joints\[:, 2\] must hold flags 0 and 1, got \[0. 1. 2.\]$",
        ),
    ],
)
def test_a_third_flag_of_leeds_sports_pose_is_refused(tmp_path, read, array, place, message):
    array[place] = 2
    with pytest.raises(ValueError, match=message):
        read(write_lsp(tmp_path / "joints.mat", array))


# All of them


def test_every_source_of_this_file_has_its_conventions():
    known = ("mpii-mat", "mpii-h5", "lsp", "flic")
    assert [SOURCES[name].index_base for name in known] == [1, 1, 0, 1]
    assert [SOURCES[name].center_adjusted for name in known] == [False, True, False, True]
    assert not any(SOURCES[name].takes for name in known)


@pytest.mark.parametrize(
    ("source", "write", "joint_set"),
    [
        (
            "mpii-mat",
            lambda path: write_release(path, [image(f"{n:09d}.jpg", rect()) for n in (0, 1)]),
            "mpii",
        ),
        ("mpii-h5", lambda path: write_h5(path, h5_fields()), "mpii"),
        ("flic", lambda path: write_h5(path, h5_fields(joints=11)), "flic"),
    ],
)
def test_a_source_can_be_planned_by_its_name(tmp_path, source, write, joint_set):
    images = tmp_path / "images"
    images.mkdir()
    for number in (0, 1):
        Image.new("L", (2000, 2000)).save(images / f"{number:09d}.jpg")
    settings = PackSettings(
        source=source,
        images=images,
        annotations=write(tmp_path / "annotations"),
        out=tmp_path / "out",
        val_images=1,
    )
    plan = plan_packing(settings)
    assert (plan.joint_set.name, plan.people, len(plan.jobs)) == (joint_set, 2, 2)


# The real files


def test_leeds_sports_pose_extended_is_read_whole(lspet_dir):
    annotations = read_lspet(lspet_dir / "joints.mat")
    assert len(annotations.people) == 6000
    assert annotations.skipped == {"fewer than two visible joints": 0}
    assert (lspet_dir / "images" / annotations.people[-1].image).is_file()


def test_joints_of_leeds_sports_pose_count_pixels_from_zero(lsp_dir):
    people = read_lsp(lsp_dir / "joints.mat").people
    visible = [
        value
        for person in people
        for joint, state in zip(person.joints, person.visibility, strict=True)
        for value in joint
        if state == VISIBLE
    ]
    assert len(people) == 2000
    # A picture begins at -0.5 if its first pixel is 0, and at 0.5 if it is 1.
    assert -0.5 < min(visible) < 0.5


def test_joints_of_leeds_sports_pose_extended_count_pixels_from_zero(lspet_dir):
    people = read_lspet(lspet_dir / "joints.mat").people
    outside: dict[int, list[str]] = {0: [], 1: []}
    for person in people:
        joints = np.array(person.joints)[np.array(person.visibility) == VISIBLE]
        if joints.min() >= 1:
            # Elsewhere both numbers of the first pixel fit.
            continue
        for first, found in outside.items():
            if joints.min() < first - 0.5:
                found.append(person.image)
    # Two of three joints at the border are in the picture only if it begins at -0.5.
    assert (len(outside[0]), len(outside[1])) == (2, 10)


def test_the_real_people_unadjusted_are_refused(tmp_path, mpii_dir):
    with h5py.File(mpii_dir / "valid.h5") as file:
        fields = {name: file[name][:] for name in file}
    fields["scale"] /= 1.25
    raised = fields["center"] - [0, 15] * fields["scale"][:, None]
    unadjusted = write_h5(tmp_path / "annot.h5", fields | {"center": raised})
    with pytest.raises(ValueError, match=r"annot\.h5: scale is not adjusted: heads are 33\.3 px"):
        read_mpii_h5(unadjusted)
    half = fields | {"center": raised, "scale": fields["scale"] * 1.25}
    with pytest.raises(ValueError, match=r"annot\.h5: center is not adjusted: it lies -"):
        read_mpii_h5(write_h5(tmp_path / "annot.h5", half))
    # A handful of people is enough for the scale, and is not refused for its centres.
    few = {name: value[:5] for name, value in fields.items()} | {"center": raised[:5]}
    with pytest.raises(ValueError, match=r"annot\.h5: scale is not adjusted"):
        read_mpii_h5(write_h5(tmp_path / "annot.h5", few))
    few["scale"] = few["scale"] * 1.25
    assert len(read_mpii_h5(write_h5(tmp_path / "annot.h5", few)).people) == 5
