"""CVAT for images 1.1: skeletons whose joints are points."""

import math
from pathlib import PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pipeline.inference.formats.labels import LabelledPerson, Labels, Picture, Written
from pipeline.pose.joint_set import JointSet
from pipeline.pose.person import Visibility


def cvat_files(labels: Labels) -> Written:
    """Write cvat/annotations.xml of the photographs, and cvat/VIDEO.xml of each video.

    CVAT calls a video's frames frame_000000, frame_000001, and so on. Limbs are edges of the
    skeleton's drawing.
    """
    files = {}
    if labels.photographs:
        named = [(picture.name, picture) for picture in labels.photographs]
        files["cvat/annotations.xml"] = _document(labels.joint_set, named)
    for video, frames in labels.videos.items():
        named = [(f"frame_{picture.frame:06d}", picture) for picture in frames]
        name = f"cvat/{PurePosixPath(video).with_suffix('')}.xml"
        files[name] = _document(labels.joint_set, named, video)
    note = f"cvat: the task needs a skeleton called {labels.joint_set.name} with these joints"
    return Written(files=files, notes=[note] if files else [])


def _document(joint_set: JointSet, pictures: list[tuple[str, Picture]], source: str = "") -> bytes:
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    declared = SubElement(task, "labels")
    if source:
        SubElement(task, "source").text = source
    _declare(declared, joint_set.name, "skeleton", drawing=_drawing(joint_set))
    for joint in joint_set.joints:
        _declare(declared, joint, "points", parent=joint_set.name)
    for number, (name, picture) in enumerate(pictures):
        size = {"width": str(picture.width), "height": str(picture.height)}
        image = SubElement(root, "image", {"id": str(number), "name": name, **size})
        for person in picture.people:
            _skeleton(image, joint_set, person)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _declare(labels: Element, name: str, kind: str, *, parent: str = "", drawing: str = "") -> None:
    label = SubElement(labels, "label")
    SubElement(label, "name").text = name
    SubElement(label, "type").text = kind
    SubElement(label, "attributes")
    if drawing:
        SubElement(label, "svg").text = drawing
    if parent:
        SubElement(label, "parent").text = parent


def _drawing(joint_set: JointSet) -> str:
    """Draw the joints on a circle, in percent, with lines for the limbs, as CVAT's editor does."""
    count = len(joint_set.joints)
    angles = [2 * math.pi * number / count for number in range(count)]
    places = [(50 + 40 * math.sin(angle), 50 - 40 * math.cos(angle)) for angle in angles]
    drawing = Element("svg")
    for start, end in joint_set.limbs:
        ends = {
            f"{axis}{n}": f"{places[joint][at]:.3f}"
            for n, joint in ((1, start), (2, end))
            for at, axis in enumerate("xy")
        }
        nodes = {"data-node-from": str(start + 1), "data-node-to": str(end + 1)}
        line = {"stroke": "black", "stroke-width": "0.5", "data-type": "edge"}
        SubElement(drawing, "line", ends | line | nodes).text = ""
    for number, (name, (x, y)) in enumerate(zip(joint_set.joints, places, strict=True), start=1):
        circle = {"r": "1.5", "stroke": "black", "fill": "#b3b3b3", "stroke-width": "0.1"}
        place = {"cx": f"{x:.3f}", "cy": f"{y:.3f}", "data-type": "element node"}
        node = {"data-element-id": str(number), "data-node-id": str(number)}
        SubElement(drawing, "circle", circle | place | node | {"data-label-name": name}).text = ""
    return "".join(
        ElementTree.tostring(part, encoding="unicode", short_empty_elements=False)
        for part in drawing
    )


def _skeleton(image: Element, joint_set: JointSet, person: LabelledPerson) -> None:
    common = {"source": "auto", "z_order": "0"}
    skeleton = SubElement(image, "skeleton", {"label": joint_set.name, **common})
    rows = zip(joint_set.joints, person.joints.tolist(), person.states.tolist(), strict=True)
    for joint, (x, y), state in rows:
        is_missing = state == Visibility.MISSING
        SubElement(
            skeleton,
            "points",
            {
                "label": joint,
                "source": "auto",
                "outside": str(int(is_missing)),
                "occluded": str(int(state == Visibility.OCCLUDED)),
                "points": "0,0" if is_missing else f"{x:.4f},{y:.4f}",
            },
        )
