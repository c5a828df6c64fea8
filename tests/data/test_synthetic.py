"""Rendered people: the same each time, and annotated where they are drawn."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.synthetic.body import POINTS, sample_body
from pipeline.data.synthetic.figure import Figure, Part, Shape, outlined, place, sample_outfit
from pipeline.data.synthetic.scene import render_scene, scene_people, visibility
from pipeline.pose.joint_sets import SYNTHETIC
from pipeline.pose.person import Visibility

LEFT_HIP, RIGHT_HIP = POINTS["left_hip"], POINTS["right_hip"]
HEAD_TOP, UPPER_NECK = POINTS["head_top"], POINTS["upper_neck"]


def square(x, y, half):
    return np.array(
        [[x - half, y - half], [x + half, y - half], [x + half, y + half], [x - half, y + half]],
        float,
    )


def row_of_joints(*parts):
    """A figure whose joint n lies at (10 n, 50), all shown by a strip behind `parts`."""
    strip = Part(shapes=(outlined(square(75, 50, 100), (200, 0, 0)),), joints=tuple(range(16)))
    joints = np.array([[10.0 * joint, 50.0] for joint in range(16)])
    return Figure(joints=joints, parts=(strip, *parts), head_size=10.0)


def states_other_than_visible(states):
    return {joint: state for joint, state in enumerate(states) if state != Visibility.VISIBLE}


def test_a_scene_is_a_pure_function_of_seed_and_index():
    image, people = render_scene(3, 5)
    other, _ = render_scene(3, 6)
    again, people_again = render_scene(3, 5)
    np.testing.assert_array_equal(image, again)
    assert people == people_again
    assert image.shape != other.shape or not np.array_equal(image, other)
    assert render_scene(4, 5)[1] != people


def test_people_listed_without_drawing_match_the_rendered_ones():
    rendered = [person for index in range(12) for person in render_scene(7, index)[1]]
    assert scene_people(7, 12) == rendered


def test_an_image_has_the_size_that_its_people_state():
    image, people = render_scene(0, 123)
    height, width, channels = image.shape
    assert image.dtype == np.uint8
    assert channels == 3
    assert people[0].image_size == (width, height)
    assert people[0].image == "synthetic-000123.jpg"


def test_annotated_joints_lie_inside_the_image():
    people = scene_people(1, 150)
    missing = 0
    for person in people:
        annotated = np.array(person.visibility) != Visibility.MISSING
        joints, limits = np.array(person.joints), np.array(person.image_size) - 1
        is_inside = np.all((joints >= 0) & (joints <= limits), axis=1)
        np.testing.assert_array_equal(annotated, is_inside)
        missing += np.sum(~annotated)
    assert 0 < missing < 0.03 * 16 * len(people)


def test_the_frame_is_a_quarter_wider_than_the_annotated_joints():
    for person in scene_people(2, 30):
        annotated = np.array(person.visibility) != Visibility.MISSING
        joints = np.array(person.joints)[annotated]
        low, high = joints.min(axis=0), joints.max(axis=0)
        assert person.center == pytest.approx((low + high) / 2)
        assert 200 * person.scale == pytest.approx(1.25 * np.max(high - low))


def test_people_of_a_scene_are_numbered_from_zero():
    numbers: dict[str, list[int]] = {}
    for person in scene_people(5, 80):
        numbers.setdefault(person.image, []).append(person.person)
    assert len(numbers) == 80
    assert {tuple(found) for found in numbers.values()} == {(0,), (0, 1)}


def test_an_occluder_over_a_joint_marks_it_occluded():
    occluder = Part(shapes=(outlined(square(30, 50, 6), (0, 0, 0)),))
    states = visibility(row_of_joints(), [occluder], (200, 100))
    assert states_other_than_visible(states) == {3: Visibility.OCCLUDED}


def test_a_later_part_of_the_same_body_hides_joints_that_it_does_not_show():
    hand = Part(shapes=(outlined(square(55, 50, 6), (0, 0, 0)),), joints=(5,))
    states = visibility(row_of_joints(hand), [], (200, 100))
    assert states_other_than_visible(states) == {6: Visibility.OCCLUDED}


def test_a_print_on_a_shirt_hides_nothing():
    stripe = Shape(outline=square(30, 50, 6), colour=(0, 0, 0), solid=False)
    states = visibility(row_of_joints(), [Part(shapes=(stripe,))], (200, 100))
    assert states_other_than_visible(states) == {}


def test_a_joint_beyond_the_last_pixel_is_missing():
    states = visibility(row_of_joints(), [], (141, 100))
    assert states_other_than_visible(states) == {15: Visibility.MISSING}


def test_the_head_size_is_six_tenths_of_the_diagonal_of_the_head_box():
    rng = np.random.default_rng(0)
    body, outfit = sample_body(rng), sample_outfit(rng)
    points = body.points.copy()
    points[UPPER_NECK], points[HEAD_TOP] = (0, -0.3, 0), (0, -0.4, 0)
    body = replace(body, points=points, build=body.build | {"head": 0.15})
    # At 200 px the box is 0.1 * 200 = 20 high and 2 * 0.39 * 0.15 * 200 = 23.4 wide.
    figure = place(body, outfit, 200, np.zeros(2))
    assert figure.head_size == pytest.approx(0.6 * (20**2 + 23.4**2) ** 0.5)


def test_left_joints_are_on_the_images_right_in_an_upright_front_view():
    rng = np.random.default_rng(4)
    fronts = backs = 0
    for _ in range(200):
        points = sample_body(rng).points
        thorax, chest = points[POINTS["thorax"]], points[POINTS["chest"]]
        if -thorax[1] < 2 * abs(thorax[0]):
            continue
        # The chest stands out of the line from pelvis to thorax on the side that is the front.
        is_front = chest[2] > 0.8 * thorax[2]
        assert is_front == (points[LEFT_HIP, 0] > points[RIGHT_HIP, 0])
        fronts, backs = fronts + is_front, backs + (not is_front)
    assert 0.05 < backs / (fronts + backs) < 0.3


def test_every_joint_lies_on_a_part_that_shows_it():
    rng = np.random.default_rng(9)
    for _ in range(20):
        figure = place(sample_body(rng), sample_outfit(rng), 180, np.array([120.0, 130.0]))
        # The top of the head is on its very edge; a hundredth further in is inside.
        figure.joints[HEAD_TOP] += 0.01 * (figure.joints[UPPER_NECK] - figure.joints[HEAD_TOP])
        for joint in range(len(SYNTHETIC.joints)):
            shown_by = [part for part in figure.parts if joint in part.joints]
            assert any(part.covers(figure.joints[joint]) for part in shown_by), joint
