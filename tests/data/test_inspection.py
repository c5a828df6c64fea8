"""The card counts what is there, names what looks wrong, and the page shows it to anybody."""

from dataclasses import replace

import numpy as np
import pytest
from factories import person, sample, samples

from pipeline.data.inspection.anomalies import anomalies
from pipeline.data.inspection.card import Anomaly, Card, card_of
from pipeline.data.inspection.columns import Columns, columns_of
from pipeline.data.inspection.duplicates import Coinciding
from pipeline.data.inspection.page import card_page, card_text
from pipeline.data.inspection.sheets import Sheet, choose, draw_sheets
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.sample import Sample
from pipeline.pose.joint_sets import LSP, MPII
from pipeline.pose.person import Visibility
from pipeline.settings import DataSettings

VISIBLE, OCCLUDED, MISSING = Visibility.VISIBLE, Visibility.OCCLUDED, Visibility.MISSING
# The frame of 100 pixels lies well inside, in any photograph.
SIZE = (400, 300)

FAR = "joints farther than one frame side from the centre"
OUTSIDE = "annotated joints outside the image"
HEAD = "head size not within 2-50% of the frame side"
NO_JOINT = "no annotated joint"
FEW = "only 1 or 2 annotated joints"
FRAME = "more than half of the frame outside the image"
UNREADABLE = "picture not decodable"
TINY = "frame side under 32 pixels"


def columns(people: list[Sample], splits: list[str] | None = None) -> Columns:
    return columns_of(people, splits or ["train"] * len(people), MPII)


def card(people: list[Sample], splits: list[str] | None = None) -> Card:
    read = columns(people, splits)
    return card_of(read, anomalies(read, MPII), joint_set=MPII, source="made", shards=1)


def found(people: list[Sample]) -> dict[str, dict[int, str]]:
    """The checks that flag anybody."""
    return {kind: flags for kind, flags in anomalies(columns(people), MPII).items() if flags}


def with_joint(joint: tuple[float, float], **changes) -> Sample:
    """A person whose right ankle, joint 0, is elsewhere."""
    joints = (joint, *person().joints[1:])
    return sample(**{"joints": joints, "image_size": SIZE} | changes)


# Counts


def test_people_images_and_heads_are_counted_by_split():
    people = [
        sample(0),
        sample(0, person=1, head_size=None),
        sample(1),
        sample(2),
    ]
    made = card(people, ["train", "train", "train", "val"])
    assert (made.people, made.images, made.head_sizes, made.shards) == (4, 3, 3, 1)
    assert made.splits == {"train": {"people": 3, "images": 2}, "val": {"people": 1, "images": 1}}


def test_joints_are_counted_by_state_and_outside_only_where_annotated():
    states = (OCCLUDED, MISSING) + (VISIBLE,) * 14
    joints = ((-1.0, 80.0), (-1.0, 80.0), (10.0, 299.6), *person().joints[3:])
    people = [
        sample(0, visibility=states, joints=joints, image_size=SIZE),
        sample(1, image_size=SIZE),
    ]
    counted = card(people).joints
    ankle, knee, hip = (counted[name] for name in MPII.joints[:3])
    assert list(ankle) == ["missing", "occluded", "visible", "outside"]
    assert tuple(ankle.values()) == (0, 1, 1, 1)
    assert tuple(knee.values()) == (1, 0, 1, 0)
    # The last pixel's area ends at 299.5.
    assert tuple(hip.values()) == (0, 0, 2, 1)


def test_spreads_are_percentiles_over_all_people():
    # Frames of 100, 110, ... 200 pixels stored with 50; joints 45 pixels high; heads of 20.
    scales = [0.5 + 0.05 * k for k in range(11)]
    people = [sample(k, scale=scale, person_px=50) for k, scale in enumerate(scales)]
    spreads = card(people).spreads
    frames = spreads["frame side, original pixels"]
    assert frames == pytest.approx({"1": 101, "5": 105, "50": 150, "95": 195, "99": 199})
    assert spreads["person height / frame side"]["50"] == pytest.approx(45 / 150)
    assert spreads["head size / frame side"]["50"] == pytest.approx(20 / 150)
    densities = spreads["stored pixels per original pixel"]
    assert densities["50"] == pytest.approx(50 / 150, abs=0.005)


def test_a_spread_of_nothing_is_empty():
    made = card(samples(2, head_size=None))
    assert made.spreads["head size / frame side"] == {}
    assert "head size / frame side" not in card_text(made)


# Damaged samples


def test_a_sample_with_another_number_of_joints_is_damaged():
    people = [sample(0), sample(1, joint_set=LSP), sample(2, visibility=(VISIBLE,) * 15)]
    made = card([*people, sample(3)], ["train", "train", "val", "val"])
    assert made.damaged_samples == (
        "photo-001_00: 14 joints, expected 16",
        "photo-002_00: 16 joints, 15 states, expected 16",
    )
    assert (made.people, made.images, made.head_sizes) == (2, 2, 2)
    assert {split: of["people"] for split, of in made.splits.items()} == {"train": 1, "val": 1}
    assert made.joints["right_ankle"]["visible"] == 2


def test_rows_carry_their_positions_past_damaged_samples():
    read = columns([sample(0, joint_set=LSP), sample(1), sample(2, joint_set=LSP), sample(3)])
    assert read.keys == ("photo-001_00", "photo-003_00")
    assert read.positions.tolist() == [1, 3]


def test_a_dataset_of_damaged_samples_only_has_a_card():
    made = card(samples(2, joint_set=LSP))
    assert (made.people, len(made.damaged_samples), made.splits) == (0, 2, {})
    assert not any(made.anomalies.values())
    assert card_text(made).startswith(
        "made, joint set mpii: 0 people in 0 images, 1 shards, 0 people with a head size; "
        "damaged samples, left out of these counts: 2\n"
    )


# Duplicates


def test_images_of_both_splits_are_named():
    people = [sample(0), sample(1), sample(1, person=1)]
    assert card(people, ["train", "train", "val"]).leaks == ("photo-001.jpg",)
    assert card(people).leaks == ()


def test_crops_that_are_the_same_to_the_byte_are_found():
    first, other = sample(0), sample(1)
    copy = replace(first, person=replace(first.person, image="copy.jpg"))
    made = card([first, other, copy], ["train", "train", "val"])
    assert made.identical_crops == (("train/photo-000_00", "val/copy_00"),)


def moved(number: int, by: float, index: int, **changes) -> Sample:
    joints = tuple((x + by, y) for x, y in person().joints)
    return sample(number, person=index, joints=joints, **changes)


def test_people_of_one_image_whose_joints_coincide_are_found():
    # The frame's side is 100: 4 pixels are close, 5 are not, and another image is another matter.
    people = [sample(0), moved(0, 4.0, 1), sample(1), moved(1, 5.0, 1), moved(2, 0.0, 0)]
    [pair] = card(people).coinciding_people
    assert pair == Coinciding(
        first="train/photo-000_00", second="train/photo-000_01", distance_share=0.04
    )


def test_people_are_compared_by_the_joints_that_both_have():
    few = (VISIBLE,) * 2 + (MISSING,) * 14
    three = (VISIBLE,) * 3 + (MISSING,) * 13
    elsewhere = person().joints[:3] + ((900.0, 900.0),) * 13
    assert card([sample(0), sample(0, person=1, visibility=few)]).coinciding_people == ()
    hidden = sample(0, person=1, visibility=three, joints=elsewhere)
    assert len(card([sample(0), hidden]).coinciding_people) == 1


# Anomalies


def test_a_clean_dataset_has_no_anomalies():
    made = card(samples(5, image_size=SIZE))
    assert made.leaks == made.identical_crops == made.coinciding_people == ()
    assert made.damaged_samples == ()
    assert set(made.anomalies) == {FAR, OUTSIDE, HEAD, NO_JOINT, FEW, FRAME, UNREADABLE, TINY}
    assert not any(made.anomalies.values())


def test_a_joint_farther_than_a_frame_side_is_named():
    # 60, 80, 100 is exactly one side of the frame.
    people = [with_joint((160.0, 160.0)), with_joint((160.0, 160.5)), with_joint((np.nan, 80.0))]
    flags = found(people)
    assert list(flags) == [FAR]
    assert list(flags[FAR]) == [1, 2]
    assert flags[FAR][1] == "right_ankle: up to 100 px from the centre, frame side 100 px"
    states = (MISSING,) + (VISIBLE,) * 15
    assert found([with_joint((900.0, 900.0), visibility=states)]) == {}


def test_a_joint_outside_the_image_is_named():
    near = {"center": (60.0, 80.0)}
    people = [with_joint((-0.5, 80.0), **near), with_joint((-2.0, 80.0), **near)]
    assert found(people) == {OUTSIDE: {1: "right_ankle outside 400x300 by up to 1.5 px"}}
    assert found([with_joint((-2.0, 80.0), center=(60.0, 80.0), image_size=None)]) == {}


@pytest.mark.parametrize(
    ("head_size", "is_strange"),
    [(0.0, True), (1.9, True), (2.0, False), (50.0, False), (51.0, True), (None, False)],
)
def test_a_head_is_between_a_fiftieth_and_half_of_the_frame(head_size, is_strange):
    flags = found(samples(1, head_size=head_size))
    reason = f"head size {head_size or 0:.4g} px, frame side 100 px"
    assert flags == ({HEAD: {0: reason}} if is_strange else {})


@pytest.mark.parametrize(
    ("joints", "flags"),
    [
        (0, {NO_JOINT: {0: "a bad sample to training (data.bad_samples)"}}),
        (1, {FEW: {0: "1 of 16 joints"}}),
        (2, {FEW: {0: "2 of 16 joints"}}),
        (3, {}),
    ],
)
def test_people_with_no_or_few_joints_are_named_once(joints, flags):
    states = (OCCLUDED,) * joints + (MISSING,) * (16 - joints)
    assert found(samples(1, visibility=states)) == flags


def test_a_joint_set_of_two_joints_is_not_expected_to_have_three():
    two = replace(
        MPII,
        joints=("nose", "tail"),
        measures=MPII.measures[:1],
        in_mean=(0, 1),
        **dict.fromkeys(("flip_pairs", "limbs", "groups"), ()),
    )
    people = [
        sample(joint_set=two),
        sample(1, joint_set=two, visibility=(VISIBLE, MISSING)),
    ]
    flags = anomalies(columns_of(people, ["train"] * 2, two), two)
    assert flags[FEW] == {1: "1 of 2 joints"}


def test_a_frame_mostly_outside_the_image_is_named():
    inside = {"joints": ((20.0, 80.0),) * 16, "image_size": SIZE}
    # The image begins at -0.5: of 100 columns 50.5 and 41 are in it.
    people = [sample(center=(0.0, 80.0), **inside), sample(center=(-9.5, 80.0), **inside)]
    assert found(people) == {FRAME: {1: "59% of the frame outside the image"}}


def test_pictures_that_cannot_be_decoded_are_named():
    good = sample(0)
    jpeg = good.crop.jpeg
    broken = [replace(good, crop=replace(good.crop, jpeg=data)) for data in (b"text", jpeg[:-200])]
    flags = found([good, *broken])
    assert flags == {
        UNREADABLE: {
            1: "not a readable image (4 bytes)",
            2: f"damaged JPEG of {len(jpeg) - 200:,} bytes: Premature end of JPEG file",
        }
    }


def test_tiny_people_are_named():
    at_center = {"joints": ((100.0, 80.0),) * 16, "head_size": 5.0}
    people = [sample(scale=0.16, **at_center), sample(scale=0.15, **at_center)]
    assert found(people) == {TINY: {1: "frame side 30.0 px"}}


def test_a_reason_names_three_joints_and_counts_the_rest():
    flags = found(samples(1, joints=((100.0, 280.0),) * 5 + person().joints[5:]))
    assert flags[FAR] == {
        0: "right_ankle, right_knee, right_hip and 2 more: up to 200 px from the centre, "
        "frame side 100 px"
    }


# Sheets


def test_sheets_take_the_smallest_and_the_most_occluded_people():
    hidden = (OCCLUDED,) * 2 + (MISSING,) * 3 + (VISIBLE,) * 11
    people = [
        sample(k, scale=0.5 + 0.01 * (k % 7), visibility=hidden if k == 9 else (VISIBLE,) * 16)
        for k in range(20)
    ]
    chosen = choose(columns(people), {}, seed=0)
    assert chosen["smallest"].tolist() == [0, 7, 14, 1, 8, 15, 2, 9, 16, 3, 10, 17]
    assert chosen["occluded"].tolist() == [9, *range(9), 10, 11]
    assert chosen["suspicious"].tolist() == []
    assert len(set(chosen["random"].tolist())) == 12
    assert choose(columns(people), {}, seed=0)["random"].tolist() == chosen["random"].tolist()
    assert choose(columns(people), {}, seed=1)["random"].tolist() != chosen["random"].tolist()


def test_every_check_has_its_turn_on_the_sheet_of_suspicious_people():
    flags = {"one": dict.fromkeys(range(15), ""), "two": {19: ""}, "three": {0: "", 18: ""}}
    chosen = choose(columns(samples(20)), flags, seed=0)["suspicious"].tolist()
    assert chosen[:4] == [0, 19, 1, 18]
    assert len(chosen) == 12


def test_people_without_a_picture_or_a_joint_are_on_no_sheet():
    people = [*samples(3), sample(3, visibility=(MISSING,) * 16)]
    people[1] = replace(people[1], crop=replace(people[1].crop, jpeg=b""))
    read = columns(people)
    chosen = choose(read, anomalies(read, MPII), seed=0)
    assert [sorted(rows.tolist()) for rows in chosen.values()] == [[0, 2], [0, 2], [0, 2], []]


# The page and the text


def test_names_that_are_no_utf_8_or_would_act_are_shown_as_escapes():
    name = "caf\udce9\nno sample: \x1b[31m"
    shown = "caf\\udce9\\nno sample: \\x1b[31m"
    made = replace(card(samples(1)), source=name, damaged_samples=(name,))
    assert card_text(made).count(shown) == 2
    assert "caf\\udce9" in card_page(made, []).encode().decode()
    people = [replace(one, person=replace(one.person, image=name)) for one in samples(1)]
    loader = SampleLoader(people, MPII, 64)
    assert list(draw_sheets(loader, columns(people), {}, DataSettings(), seed=0))


def test_names_from_outside_are_escaped():
    name = "<script>alert('x')</script>&\".jpg"
    files = {f"{name}-{kind}.png": kind.encode() for kind in ("stored", "training")}
    shown = Sheet(name=name, title="people", captions=((name, name),), files=files)
    made = replace(
        card(samples(1)),
        source=name,
        damaged_samples=(name,),
        leaks=(name,),
        identical_crops=((name, name),),
        coinciding_people=(Coinciding(first=name, second=name, distance_share=0.0),),
        anomalies={TINY: (Anomaly(key=name, split="train", reason=name),)},
    )
    page = card_page(made, [shown])
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&#34;.jpg") == 16
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'none'"
    assert f'content="{policy}">' in page


def test_secrets_in_names_are_not_on_the_page():
    made = replace(card(samples(1)), leaks=("https://h/a.jpg?sig=SECRET",))
    assert "SECRET" not in card_page(made, [])


def test_ten_of_a_list_are_printed_and_the_rest_counted():
    made = card(samples(13, head_size=0.0, image_size=SIZE))
    lines = card_text(made).splitlines()
    start = lines.index(f"{HEAD}: 13")
    assert lines[start + 1] == "  train/photo-000_00  head size 0 px, frame side 100 px"
    assert lines[start + 11] == "  and 3 more"
    assert lines[start + 12] == f"{NO_JOINT}: 0"
