"""Small files of each labelling tool, as it writes them, with their pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np

# Two mice in two pictures of 160 x 120 pixels, the second one's tail missing.
JOINTS = ("snout", "leftear", "rightear", "tail")
MICE = (
    ((40.25, 30.5), (50.0, 20.0), (50.0, 41.0), (90.0, 33.0)),
    ((100.0, 80.0), (90.0, 71.0), (91.0, 90.0), None),
)
SIZE = (160, 120)
NAMES = ("a.png", "b.png")


def pictures(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    """Write pictures of random colours."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(coarse, SIZE))


def video(path: Path, frames: int = 6) -> None:
    """Write a video whose frames are of one grey each: 20, 50, 80 and so on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, SIZE)
    for number in range(frames):
        writer.write(np.full((SIZE[1], SIZE[0], 3), 20 + 30 * number, np.uint8))
    writer.release()


def coco(folder: Path) -> Path:
    pictures(folder)
    points = [[n for p in mouse for n in ((*p, 2) if p else (0, 0, 0))] for mouse in MICE]
    content = {
        "images": [
            {"id": n, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for n, name in enumerate(NAMES, start=1)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "keypoints": mouse, "bbox": [20, 10, 80, 85]}
            for n, mouse in enumerate(points, start=1)
        ],
        "categories": [
            {"id": 1, "name": "mouse", "keypoints": list(JOINTS), "skeleton": [[1, 2], [1, 3]]}
        ],
    }
    path = folder / "mice.json"
    path.write_text(json.dumps(content))
    return path


def yolo_pose(folder: Path) -> Path:
    pictures(folder / "images/train")
    (folder / "labels/train").mkdir(parents=True)
    for name, mouse in zip(NAMES, MICE, strict=True):
        points = " ".join(
            f"{p[0] / SIZE[0]:.8f} {p[1] / SIZE[1]:.8f} 2" if p else "0 0 0" for p in mouse
        )
        text = folder / "labels/train" / name.replace(".png", ".txt")
        text.write_text(f"0 0.375 0.5 0.5 0.75 {points}\n")
    path = folder / "data.yaml"
    path.write_text(
        "path: ../somewhere\ntrain: images/train\nval: images/train\nkpt_shape: [4, 3]\n"
        f"flip_idx: [0, 2, 1, 3]\nnames:\n  0: mouse\nkpt_names:\n  0: [{', '.join(JOINTS)}]\n"
    )
    return path


def deeplabcut(folder: Path) -> Path:
    pictures(folder / "labeled-data/m1")
    (folder / "config.yaml").write_text(
        f"Task: mice\nbodyparts: [{', '.join(JOINTS)}]\nskeleton:\n- - snout\n  - tail\n"
    )
    rows = [
        "scorer" + ",me" * 8,
        "bodyparts," + ",".join(f"{name},{name}" for name in JOINTS),
        "coords" + ",x,y" * 4,
        *(
            f"labeled-data/m1/{name}," + ",".join(f"{p[0]},{p[1]}" if p else "," for p in mouse)
            for name, mouse in zip(NAMES, MICE, strict=True)
        ),
    ]
    path = folder / "labeled-data/m1/CollectedData_me.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def deeplabcut_h5(folder: Path) -> Path:
    """Write the layout of pandas' fixed format, with an index of three columns."""
    pictures(folder / "labeled-data/m1")
    path = folder / "labeled-data/m1/CollectedData_me.h5"
    values = [[n for p in mouse for n in (p or (np.nan, np.nan))] for mouse in MICE]
    levels = {
        "axis1": ([b"labeled-data"], [b"m1"], [name.encode() for name in NAMES]),
        "block0_items": ([b"me"], [name.encode() for name in JOINTS], [b"x", b"y"]),
    }
    labels = {
        "axis1": ([0, 0], [0, 0], [0, 1]),
        "block0_items": ([0] * 8, [0, 0, 1, 1, 2, 2, 3, 3], [0, 1] * 4),
    }
    with h5py.File(path, "w") as file:
        group = file.create_group("df_with_missing")
        group["block0_values"] = np.array(values)
        for axis in levels:
            for number in range(3):
                group[f"{axis}_level{number}"] = np.array(levels[axis][number])
                group[f"{axis}_label{number}"] = np.array(labels[axis][number], np.int8)
    return path


SVG = '&lt;line data-type="edge" data-node-from="1" data-node-to="4"&gt;&lt;/line&gt;' + "".join(
    f'&lt;circle data-node-id="{n}" data-label-name="{name}"&gt;&lt;/circle&gt;'
    for n, name in enumerate(JOINTS, start=1)
)
LABELS = f"<label><name>mouse</name><type>skeleton</type><svg>{SVG}</svg></label>" + "".join(
    f"<label><name>{name}</name><type>points</type><parent>mouse</parent></label>"
    for name in JOINTS
)


def cvat(folder: Path) -> Path:
    pictures(folder / "images")
    images = "".join(
        f'<image id="{n}" name="{name}" width="{SIZE[0]}" height="{SIZE[1]}"><skeleton '
        f'label="mouse">'
        + "".join(
            f'<points label="{joint}" outside="{int(p is None)}" '
            f'occluded="{int(joint == "leftear")}" '
            f'points="{p[0] if p else 1},{p[1] if p else 1}"></points>'
            for joint, p in zip(JOINTS, mouse, strict=True)
        )
        + "</skeleton></image>"
        for n, (name, mouse) in enumerate(zip(NAMES, MICE, strict=True))
    )
    path = folder / "annotations.xml"
    path.write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task>'
        f"<name>mice</name><labels>{LABELS}</labels></task></meta>{images}</annotations>"
    )
    return path


def cvat_video(folder: Path) -> Path:
    """Write a track with keyframes 0 and 4; the tail goes outside in frame 2."""
    video(folder / "mice.mp4")
    whole = "".join(
        f'<skeleton frame="{n}" outside="{int(n == 5)}" keyframe="1"></skeleton>' for n in (0, 4, 5)
    )
    parts = ""
    for joint, start, end in zip(JOINTS, MICE[0], MICE[1], strict=True):
        keys = {0: start, 4: end} if end else {0: start, 2: None}
        parts += f'<track id="0" label="{joint}">' + "".join(
            f'<points frame="{n}" outside="{int(p is None)}" occluded="0" keyframe="1" '
            f'points="{(p or start)[0]},{(p or start)[1]}"></points>'
            for n, p in keys.items()
        )
        parts += "</track>"
    path = folder / "annotations.xml"
    path.write_text(
        "<annotations><version>1.1</version><meta><task><size>6</size><mode>interpolation</mode>"
        f"<start_frame>0</start_frame><stop_frame>5</stop_frame><labels>{LABELS}</labels>"
        "<original_size><width>160</width><height>120</height></original_size></task>"
        f'<source>mice.mp4</source></meta><track id="0" label="mouse">{whole}{parts}</track>'
        "</annotations>"
    )
    return path


def label_studio(folder: Path) -> Path:
    pictures(folder)
    (folder / "config.xml").write_text(
        "<View><Image name='i' value='$image'/><KeyPointLabels name='k' toName='i'>"
        + "".join(f"<Label value='{name}'/>" for name in JOINTS)
        + "</KeyPointLabels></View>"
    )
    common = {"original_width": SIZE[0], "original_height": SIZE[1], "image_rotation": 0}
    tasks = []
    for number, (name, mouse) in enumerate(zip(NAMES, MICE, strict=True)):
        result = [
            {
                "id": f"k{joint}",
                "type": "keypointlabels",
                "parentID": "box",
                "value": {
                    "x": 100 * p[0] / SIZE[0],
                    "y": 100 * p[1] / SIZE[1],
                    "width": 0.5,
                    "keypointlabels": [joint],
                },
            }
            | common
            for joint, p in zip(JOINTS, mouse, strict=True)
            if p
        ]
        box = {"x": 12.5, "y": 10, "width": 50, "height": 75, "rectanglelabels": ["mouse"]}
        result.append({"id": "box", "type": "rectanglelabels", "value": box} | common)
        tasks.append(
            {
                "id": number,
                "data": {"image": f"/data/upload/1/{name}"},
                "annotations": [{"result": result}],
            }
        )
    path = folder / "tasks.json"
    path.write_text(json.dumps(tasks))
    return path


SKELETON = {
    "nodes": [{"name": name} for name in sorted(JOINTS)],
    "skeletons": [
        {
            "graph": {"name": "mouse"},
            "nodes": [{"id": sorted(JOINTS).index(name)} for name in JOINTS],
            "links": [
                {
                    "source": sorted(JOINTS).index("leftear"),
                    "target": sorted(JOINTS).index("rightear"),
                    "type": {"py/reduce": [{"py/type": "EdgeType"}, {"py/tuple": [2]}]},
                },
                {
                    "source": sorted(JOINTS).index("snout"),
                    "target": sorted(JOINTS).index("tail"),
                    "type": {"py/reduce": [{"py/type": "EdgeType"}, {"py/tuple": [1]}]},
                },
                {
                    "source": sorted(JOINTS).index("rightear"),
                    "target": sorted(JOINTS).index("leftear"),
                    "type": {"py/id": 1},
                },
            ],
        }
    ],
}


def sleap(folder: Path, *, version: float = 1.2, is_package: bool = False) -> Path:
    """Write two labelled frames, 1 and 4, and a prediction in frame 2."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = {"filename": "/home/somebody/mice.mp4"}
    path = folder / ("mice.pkg.slp" if is_package else "mice.slp")
    point = [("x", "<f8"), ("y", "<f8"), ("visible", "?"), ("complete", "?")]
    points = [(*(p or (5, 5)), p is not None, True) for mouse in MICE for p in mouse]
    with h5py.File(path, "w") as file:
        metadata = file.create_group("metadata")
        metadata.attrs["format_id"] = version
        metadata.attrs["json"] = np.bytes_(json.dumps(SKELETON))
        file["frames"] = np.array(
            [(0, 0, 1, 0, 1), (1, 0, 4, 1, 2), (2, 0, 2, 2, 3)],
            [(name, "<u8") for name in ("frame_id", "video", "frame_idx", "start", "end")],
        )
        names = ("instance_id", "instance_type", "frame_id", "skeleton", "track", "from_predicted")
        file["instances"] = np.array(
            [
                (0, 0, 0, 0, -1, -1, 1, 0, 4),
                (1, 0, 1, 0, -1, -1, 1, 4, 8),
                (2, 1, 2, 0, -1, -1, 1, 0, 4),
            ],
            [
                *((name, "<i8") for name in names),
                *(("score", "<f4"), ("point_id_start", "<u8"), ("point_id_end", "<u8")),
            ],
        )
        file["points"] = np.array(points, point)
        file["pred_points"] = np.array(
            [(*point, 0.5) for point in points[:4]], [*point, ("score", "<f8")]
        )
        if is_package:
            backend = {"filename": ".", "dataset": "video0/video"}
            frames = [
                np.frombuffer(
                    cv2.imencode(
                        ".png", np.full((SIZE[1], SIZE[0], 3), (10 * n, 0, 200), np.uint8)
                    )[1],
                    np.int8,
                )
                for n in (1, 4)
            ]
            file.create_dataset("video0/video", (2,), h5py.vlen_dtype(np.int8))
            for row, frame in enumerate(frames):
                file["video0/video"][row] = frame
            file["video0/video"].attrs["format"] = "png"
            file["video0/video"].attrs["channel_order"] = "RGB"
            file["video0/frame_numbers"] = np.array([1, 4])
        else:
            video(folder / "mice.mp4")
        file["videos_json"] = np.array([json.dumps({"backend": backend}).encode()])
    return path


def sleap_package(folder: Path) -> Path:
    return sleap(folder, is_package=True)


FILES: dict[str, Callable[[Path], Path]] = {
    "coco": coco,
    "yolo-pose": yolo_pose,
    "deeplabcut": deeplabcut,
    "deeplabcut-h5": deeplabcut_h5,
    "cvat": cvat,
    "cvat-video": cvat_video,
    "label-studio": label_studio,
    "sleap": sleap,
    "sleap-package": sleap_package,
}

# What each of them returns, below the folder.
PATHS = {
    "coco": "mice.json",
    "yolo-pose": "data.yaml",
    "deeplabcut": "labeled-data/m1/CollectedData_me.csv",
    "deeplabcut-h5": "labeled-data/m1/CollectedData_me.h5",
    "cvat": "annotations.xml",
    "cvat-video": "annotations.xml",
    "label-studio": "tasks.json",
    "sleap": "mice.slp",
    "sleap-package": "mice.pkg.slp",
}
