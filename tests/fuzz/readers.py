"""The readers of outside bytes, each with seeds and the mutations that fit its format."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from factories import pack_samples, sample, samples
from fuzz.mutate import of_arrays, of_bytes, of_json, of_json_lines, of_text
from hypothesis import strategies as st

from pipeline.data.augmentation import Augmentation
from pipeline.data.formats.coco_truth import read_coco_results, read_coco_truth
from pipeline.data.formats.registry import SOURCES
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.crop import CropDecoder
from pipeline.data.shards.index import INDEX_NAME, Index, find_shards
from pipeline.data.shards.members import MEMBERS_NAME, members_from
from pipeline.data.shards.sample import record_of, sample_from
from pipeline.evaluation.per_person import PEOPLE_NAME, Instances, PersonResults, read_results
from pipeline.inference.boxes.files import read_boxes
from pipeline.inference.pyfunc import ServedModel
from pipeline.io.parsing import parse_json
from pipeline.model.build import build_network
from pipeline.pose.joint_file import read_joint_file
from pipeline.pose.joint_sets import COCO, MPII
from pipeline.run import metadata as checkpoint_json
from pipeline.run.checkpoint import (
    OPTIMIZER_NAME,
    WEIGHTS_NAME,
    load_training,
    load_weights,
    take_snapshot,
    write_checkpoint,
)
from pipeline.run.journal import JOURNAL_NAME, Journal, RunSpec
from pipeline.run.metadata import METADATA_NAME, CheckpointMetadata, Progress, read_metadata
from pipeline.settings import Settings
from pipeline.settings.packing import AnnotationFiles

_SMALL = {
    "model.stacks": 1,
    "model.features": 8,
    "model.order": 2,
    "model.joints": 16,
    "model.input_px": 64,
}
Mutation = Callable[[bytes], st.SearchStrategy[bytes]]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader of the file `name` in a folder that `prepare` fills; the file is then mutated.

    `read` gets the folder. `sign` is applied to mutated bytes, where a checksum would otherwise
    refuse them all.
    """

    name: str
    prepare: Callable[[Path], object]
    read: Callable[[Path], object]
    mutations: Sequence[Mutation]
    sign: Callable[[bytes], bytes] = bytes


def _record(folder: Path) -> None:
    (folder / "a.json").write_bytes(record_of(sample(0)))


def _read_record(folder: Path) -> None:
    made = sample_from(sample(0).crop.jpeg, (folder / "a.json").read_bytes(), "a.tar: a")
    loader = SampleLoader([made], MPII, 64)
    loader.load(made, Augmentation(), np.empty((64, 64, 3), np.uint8))
    record_of(made)


def _packed(folder: Path) -> None:
    pack_samples(folder, [samples(2), samples(2, first=2)], members=True)


def _read_index(folder: Path) -> None:
    Index.read(folder)
    find_shards("data.train", str(folder / "*.tar"))


def _people(folder: Path) -> None:
    random = np.random.default_rng(0)
    count, joints = 3, len(COCO.joints)
    errors = random.uniform(0, 1, (count, joints))
    instances = Instances(
        truth=random.uniform(0, 9, (count, joints, 2)).astype(np.float32),
        annotated=errors < 0.5,
        boxes=np.ones((count, 4), np.float32),
        areas=np.ones(count, np.float32),
        scores=np.ones(count, np.float32),
    )
    results = PersonResults.of(
        ("a_00", "a_01", "b_00"),
        *(np.arange(count), np.arange(count)),
        random.uniform(0, 9, (count, joints, 2)),
        {"pck_box": errors},
        instances,
    )
    (folder / PEOPLE_NAME).write_bytes(results.to_bytes())


def _checkpoint(folder: Path) -> None:
    settings = Settings.from_flat(_SMALL)
    network = build_network(settings.model, 0, torch.device("cpu"))
    metadata = CheckpointMetadata(
        settings=settings, joint_set=MPII, progress=Progress(epochs=1), metrics={"pckh_0.5": 1.0}
    )
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    ranks = torch.zeros(1, 2)
    write_checkpoint(folder, take_snapshot(network, metadata, optimizer=optimizer, ranks=ranks))


def _signed(data: bytes) -> bytes:
    """Give a mutated checkpoint.json the checksum that it then needs."""
    try:
        content = json.loads(data)
        content["checksum"] = checkpoint_json._checksum(content)
    except (ValueError, TypeError, RecursionError):
        return data
    return json.dumps(content).encode()


def _network() -> torch.nn.Module:
    return build_network(Settings.from_flat(_SMALL).model, 0, torch.device("cpu"))


def _read_training(folder: Path) -> None:
    load_training(folder, torch.optim.SGD(_network().parameters(), 0.1, momentum=0.9))


def _read_weights(folder: Path) -> None:
    load_weights(folder, _network())


def _journal(folder: Path) -> None:
    journal = Journal(folder)
    journal.run(
        RunSpec(
            uri="sqlite:///m.db",
            experiment="e",
            name="r",
            params={"a": 1},
            tags={"b": "c"},
            artifacts=folder,
        )
    )
    journal.metrics({"pckh_0.5": 1.0}, 1)
    journal.tags({"t": "u"})
    journal.end("FINISHED")


def _read_journal(folder: Path) -> None:
    journal = Journal(folder)
    journal.entries()
    journal.models()
    journal.history(["pckh_0.5"])


_JOINT_SET = b"""name = "horse"
joints = ["nose", "tail", "left_hoof", "right_hoof"]
normaliser = ["nose", "tail"]
index_base = 0
flip_pairs = [["left_hoof", "right_hoof"]]
limbs = [["nose", "tail"]]
groups = { hoof = ["left_hoof", "right_hoof"] }
thresholds = [0.2, 0.1]
sigmas = [0.1, 0.1, 0.2, 0.2]
"""


def _joint_set(folder: Path) -> None:
    (folder / "horse.toml").write_bytes(_JOINT_SET)


def _table(folder: Path) -> None:
    _joint_set(folder)
    joints = ("nose", "tail", "left_hoof", "right_hoof")
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["image", *(f"{joint}_{axis}" for joint in joints for axis in "xy")])
    for number in range(3):
        rows.writerow([f"{number}.jpg", *range(10 + number, 90 + number, 10)])
    (folder / "a.csv").write_text(text.getvalue())


def _coco_content() -> dict[str, Any]:
    keypoints = [value for joint in range(17) for value in (10 + 3 * joint, 20 + 5 * joint, 2)]
    return {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 200, "height": 160}],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.joints)}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "keypoints": keypoints,
                "num_keypoints": 17,
                "bbox": [5, 6, 70, 90],
                "area": 1000,
                "iscrowd": 0,
            }
            for number in (1, 2)
        ],
    }


def _coco(folder: Path) -> None:
    content = _coco_content()
    (folder / "a.json").write_text(json.dumps(content))
    results = [
        {name: one[name] for name in ("image_id", "category_id", "keypoints")} | {"score": 0.5}
        for one in content["annotations"]
    ]
    (folder / "results.json").write_text(json.dumps(results))


def _read_results(folder: Path) -> None:
    read_coco_results(folder / "results.json", read_coco_truth(folder / "a.json"))


def _mpii_json(folder: Path) -> None:
    person = {
        "dataset": "MPI",
        "isValidation": 0.0,
        "img_paths": "1.jpg",
        "objpos": [100.0, 80.0],
        "scale_provided": 0.5,
        "joint_self": [[10.0 + n, 20.0 + n, 1.0] for n in range(16)],
        "annolist_index": 1,
        "people_index": 1,
    }
    (folder / "a.json").write_text(json.dumps([person, person | {"people_index": 2}]))


def _mpii_hrnet(folder: Path) -> None:
    person = {
        "image": "1.jpg",
        "center": [100.0, 80.0],
        "scale": 0.5,
        "joints": [[10.0 + n, 20.0 + n] for n in range(16)],
        "joints_vis": [1] * 16,
    }
    (folder / "a.json").write_text(json.dumps([person]))


def _annotations(source: str, name: str, joint_set: bool = False) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        toml = folder / "horse.toml" if joint_set else None
        files = AnnotationFiles(annotations=folder / name, joint_set=toml)
        return SOURCES[source].read(files)

    return read


def _boxes(folder: Path) -> None:
    content = _coco_content()
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [5, 6, 70, 90], "score": 0.5}]
    (folder / "a.json").write_text(json.dumps(content))
    (folder / "detections.json").write_text(json.dumps(boxes))


@cache
def _served(folder: Path) -> ServedModel:
    return ServedModel(folder)


def _request(folder: Path) -> None:
    import base64

    (folder / "model").mkdir()
    _checkpoint(folder / "model")
    image = base64.b64encode(sample(0).crop.jpeg).decode()
    row = {"image": image, "x": 1, "y": 2, "width": 30, "height": 40}
    (folder / "request.json").write_text(json.dumps([row]))


def _read_request(folder: Path) -> None:
    rows = parse_json((folder / "request.json").read_bytes(), "request")
    _served(folder / "model").predict(pd.DataFrame(rows))


JSON: tuple[Mutation, ...] = (of_json, of_json, of_json, of_bytes)
READERS: Mapping[str, Reader] = {
    "shard record": Reader(name="a.json", prepare=_record, read=_read_record, mutations=JSON),
    "stored crop": Reader(
        name="a.jpg",
        prepare=lambda folder: (folder / "a.jpg").write_bytes(sample(0).crop.jpeg),
        read=lambda folder: CropDecoder().decode((folder / "a.jpg").read_bytes()),
        mutations=(of_bytes,),
    ),
    "index.json": Reader(name=INDEX_NAME, prepare=_packed, read=_read_index, mutations=JSON),
    "members.npz": Reader(
        name=MEMBERS_NAME,
        prepare=_packed,
        read=lambda folder: members_from((folder / MEMBERS_NAME).read_bytes(), MEMBERS_NAME),
        mutations=(of_arrays, of_arrays, of_bytes),
    ),
    "people.npz": Reader(
        name=PEOPLE_NAME,
        prepare=_people,
        read=lambda folder: read_results(folder / PEOPLE_NAME),
        mutations=(of_arrays, of_arrays, of_bytes),
    ),
    "checkpoint.json": Reader(
        name=METADATA_NAME, prepare=_checkpoint, read=read_metadata, mutations=JSON, sign=_signed
    ),
    "optimizer.pt": Reader(
        name=OPTIMIZER_NAME, prepare=_checkpoint, read=_read_training, mutations=(of_bytes,)
    ),
    "weights.safetensors": Reader(
        name=WEIGHTS_NAME, prepare=_checkpoint, read=_read_weights, mutations=(of_bytes,)
    ),
    "journal.jsonl": Reader(
        name=JOURNAL_NAME,
        prepare=_journal,
        read=_read_journal,
        mutations=(of_json_lines, of_json_lines, of_bytes),
    ),
    "joint-set file": Reader(
        name="horse.toml",
        prepare=_joint_set,
        read=lambda folder: read_joint_file(folder / "horse.toml"),
        mutations=(of_text, of_bytes),
    ),
    "table": Reader(
        name="a.csv",
        prepare=_table,
        read=_annotations("table", "a.csv", joint_set=True),
        mutations=(of_text, of_bytes),
    ),
    "coco": Reader(
        name="a.json", prepare=_coco, read=_annotations("coco", "a.json"), mutations=JSON
    ),
    "mpii-json": Reader(
        name="a.json", prepare=_mpii_json, read=_annotations("mpii-json", "a.json"), mutations=JSON
    ),
    "mpii-hrnet": Reader(
        name="a.json",
        prepare=_mpii_hrnet,
        read=_annotations("mpii-hrnet", "a.json"),
        mutations=JSON,
    ),
    "coco truth": Reader(name="a.json", prepare=_coco, read=_read_results, mutations=JSON),
    "coco results": Reader(name="results.json", prepare=_coco, read=_read_results, mutations=JSON),
    "boxes of annotations": Reader(
        name="a.json",
        prepare=_boxes,
        read=lambda folder: read_boxes(folder / "a.json"),
        mutations=JSON,
    ),
    "detections": Reader(
        name="detections.json",
        prepare=_boxes,
        read=lambda folder: read_boxes(folder / "detections.json"),
        mutations=JSON,
    ),
    "served request": Reader(
        name="request.json", prepare=_request, read=_read_request, mutations=(of_json,)
    ),
}
