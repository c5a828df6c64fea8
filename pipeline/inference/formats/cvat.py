"""CVAT for images 1.1: skeletons whose joints are points."""

from pathlib import PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pipeline.inference.formats.labels import LabelledPerson, Labels, Picture, Written
from pipeline.pose.joint_set import JointSet
from pipeline.pose.person import Visibility


def cvat_files(labels: Labels) -> Written:
    """Write cvat/annotations.xml of the photographs, and cvat/VIDEO.xml of each video.

    CVAT calls a video's frames frame_000000, frame_000001, and so on.
    """
    files = {}
    if labels.photographs:
        named = [(picture.name, picture) for picture in labels.photographs]
        files["cvat/annotations.xml"] = _document(labels.joint_set, named)
    for video, frames in labels.videos.items():
        named = [(f"frame_{picture.frame:06d}", picture) for picture in frames]
        name = f"cvat/{PurePosixPath(video).with_suffix('')}.xml"
        files[name] = _document(labels.joint_set, named)
    note = f"cvat: the task needs a skeleton called {labels.joint_set.name} with these joints"
    return Written(files=files, notes=[note] if files else [])


def _document(joint_set: JointSet, pictures: list[tuple[str, Picture]]) -> bytes:
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    declared = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    _declare(declared, joint_set.name, "skeleton")
    for joint in joint_set.joints:
        _declare(declared, joint, "points", parent=joint_set.name)
    for number, (name, picture) in enumerate(pictures):
        size = {"width": str(picture.width), "height": str(picture.height)}
        image = SubElement(root, "image", {"id": str(number), "name": name, **size})
        for person in picture.people:
            _skeleton(image, joint_set, person)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _declare(labels: Element, name: str, kind: str, parent: str = "") -> None:
    label = SubElement(labels, "label")
    SubElement(label, "name").text = name
    SubElement(label, "type").text = kind
    SubElement(label, "attributes")
    if parent:
        SubElement(label, "parent").text = parent


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
