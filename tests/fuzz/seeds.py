"""Genuine files for the readers of outside bytes, each written into a folder."""

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.io
import torch
from author_files import write_h5
from factories import TINY_NETWORK, pack_samples, photograph, sample, samples
from PIL import Image

from pipeline.data.shards.sample import record_of
from pipeline.evaluation.evaluate import EVALUATION_NAME, Evaluation
from pipeline.evaluation.metrics import THRESHOLDS, JointCounts
from pipeline.evaluation.per_person import PEOPLE_NAME, Instances, PersonResults
from pipeline.model.build import build_network
from pipeline.pose.joint_sets import COCO, MPII
from pipeline.run.checkpoint import take_snapshot, write_checkpoint
from pipeline.run.journal import Journal, RunSpec
from pipeline.run.manifest import MANIFEST, Manifest, Stored
from pipeline.run.metadata import CheckpointMetadata, Progress
from pipeline.run.ownership import Owner
from pipeline.settings import Settings
from pipeline.training.step import build_optimizer


def record(folder: Path) -> None:
    (folder / "a.json").write_bytes(record_of(sample(0)))


def packed(folder: Path) -> None:
    pack_samples(folder, [samples(2), samples(2, first=2)], members=True)


def people(folder: Path) -> None:
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


def evaluation(folder: Path) -> None:
    joints = len(MPII.joints)
    counts = JointCounts(
        correct=np.full((len(THRESHOLDS), joints), 2), annotated=np.full(joints, 3)
    )
    made = Evaluation(counts={m.key: counts for m in MPII.measures}, loss_sum=1.5, people=4)
    (folder / EVALUATION_NAME).write_text(json.dumps(made.to_json()))


def checkpoint(folder: Path) -> None:
    settings = Settings.from_flat(TINY_NETWORK)
    network = build_network(settings.model, 0, torch.device("cpu"))
    metadata = CheckpointMetadata(
        settings=settings, joint_set=MPII, progress=Progress(epochs=1), metrics={"pckh_0.5": 1.0}
    )
    optimizer = build_optimizer(network, settings.optim)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    ranks = torch.zeros(1, 2)
    write_checkpoint(folder, take_snapshot(network, metadata, optimizer=optimizer, ranks=ranks))


def manifest(folder: Path) -> None:
    owner = Owner(token="t", host="h", machine="m", pid=1, ticks=1, since="now")
    files = {
        path: Stored(key=f"00000001-0123abcd/{path}", size=3, sha256="0" * 64)
        for path in ("journal.jsonl", "epoch_0001/checkpoint.json")
    }
    made = Manifest(began="b", generation=1, owner=owner, serial=2, files=files)
    (folder / MANIFEST).write_bytes(made.to_bytes())


def journal(folder: Path) -> None:
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


def joint_set(folder: Path) -> None:
    (folder / "horse.toml").write_bytes(_JOINT_SET)


def table(folder: Path) -> None:
    joint_set(folder)
    joints = ("nose", "tail", "left_hoof", "right_hoof")
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["image", *(f"{joint}_{axis}" for joint in joints for axis in "xy")])
    for number in range(3):
        rows.writerow([f"{number}.jpg", *range(10 + number, 90 + number, 10)])
    (folder / "a.csv").write_text(text.getvalue())


def coco_content() -> dict[str, Any]:
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


def coco(folder: Path) -> None:
    content = coco_content()
    (folder / "a.json").write_text(json.dumps(content))
    results = [
        {name: one[name] for name in ("image_id", "category_id", "keypoints")} | {"score": 0.5}
        for one in content["annotations"]
    ]
    (folder / "results.json").write_text(json.dumps(results))


def mpii_json(folder: Path) -> None:
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


def mpii_hrnet(folder: Path) -> None:
    person = {
        "image": "1.jpg",
        "center": [100.0, 80.0],
        "scale": 0.5,
        "joints": [[10.0 + n, 20.0 + n] for n in range(16)],
        "joints_vis": [1] * 16,
    }
    (folder / "a.json").write_text(json.dumps([person]))


def boxes(folder: Path) -> None:
    content = coco_content()
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [5, 6, 70, 90], "score": 0.5}]
    (folder / "a.json").write_text(json.dumps(content))
    (folder / "detections.json").write_text(json.dumps(boxes))


def request(folder: Path) -> None:
    (folder / "model").mkdir()
    checkpoint(folder / "model")
    image = base64.b64encode(sample(0).crop.jpeg).decode()
    row = {"image": image, "x": 1, "y": 2, "width": 30, "height": 40}
    (folder / "request.json").write_text(json.dumps([row]))


def torch_weights(folder: Path) -> None:
    state = {"epoch": 3, "state_dict": {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}}
    torch.save(state, folder / "a.pth")


def truth(folder: Path) -> None:
    """Write detections_our_format.mat of two people, and predictions of them."""
    joints = np.arange(64.0).reshape(16, 2, 2)
    boxes = np.array([[[1, 1], [30, 40]], [[1, 1], [30, 40]]], float).transpose(1, 2, 0)
    missing = np.zeros((16, 2), np.uint8)
    content = {"pos_gt_src": joints, "jnt_missing": missing, "headboxes_src": boxes}
    scipy.io.savemat(folder / "a.mat", content)
    scipy.io.savemat(folder / "preds.mat", {"preds": joints.transpose(2, 0, 1)})
    write_h5(folder / "preds.h5", {"preds": joints.transpose(2, 0, 1)})


def parquet(folder: Path) -> None:
    rows = {"image": ["a.jpg", "b.jpg"], "x": [1.0, 2.0], "y": [3.0, 4.0]}
    rows |= {"width": [10.0, 20.0], "height": [30.0, 40.0]}
    pd.DataFrame(rows).to_parquet(folder / "a.parquet")


def picture(name: str) -> Callable[[Path], object]:
    """Return a function that writes a picture of the kind that the name's end tells."""
    return lambda folder: Image.fromarray(photograph(40, 30)).save(folder / name)


_URIS = """postgresql://anna:SECRET@db/runs
postgresql+psycopg2://anna:SECRET@db:5432/runs?sslmode=require
http://anna:SECRET@h:5000/x
http://anna%40b.org:SECRET@[::1]:5000/
https://WORD@host/a.tar
https://WORD:x-oauth-basic@host/a.tar
redis://:SECRET@h:6379
s3://KEY:SECRET@bucket/a.tar
https://h/a.tar?x=1&sig=SECRET
https://h/a.tar?WORD
https://h/a.tar?to%6ben=SECRET
https://h/a.tar#access_token=SECRET
https://h/a.tar?x=1#SECRET
https://h/{a,b}.tar?code=SECRET
https://h/token/WORD/a.tar
mssql+pyodbc:///?odbc_connect=UID%3Danna%3BPWD%3DSECRET
sqlite:///a.db?x=SECRET"""


def uris(folder: Path) -> None:
    (folder / "uri.txt").write_text(_URIS)
