"""The one table of readers of outside bytes, each with seeds and mutations that fit its format."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import author_files
import numpy as np
import pandas as pd
import tool_files
import torch
from factories import TINY_NETWORK, sample
from fuzz import seeds
from fuzz.mutate import (
    of_arrays,
    of_bytes,
    of_json,
    of_json_lines,
    of_tensors,
    of_text,
    of_uri,
)
from hypothesis import strategies as st

from pipeline.data.augmentation import Augmentation
from pipeline.data.formats.coco_truth import read_coco_results, read_coco_truth
from pipeline.data.formats.mpii import read_mpii_predictions, read_mpii_truth
from pipeline.data.formats.registry import read_annotations, recognise
from pipeline.data.loader import SampleLoader
from pipeline.data.packing_plan import plan_packing
from pipeline.data.photographs.pixels import open_photograph
from pipeline.data.shards.crop import CropDecoder
from pipeline.data.shards.index import INDEX_NAME, Index, find_shards
from pipeline.data.shards.members import MEMBERS_NAME, Members, members_from
from pipeline.data.shards.sample import BadSamples, record_of, sample_from
from pipeline.data.shards.streaming import ShardStream
from pipeline.evaluation.evaluate import EVALUATION_NAME, Evaluation
from pipeline.evaluation.per_person import PEOPLE_NAME, read_results
from pipeline.inference.boxes.files import read_boxes
from pipeline.inference.pyfunc import ServedModel
from pipeline.inference.request import check_body
from pipeline.io.parsing import parse_json
from pipeline.io.redaction import redacted
from pipeline.model.build import build_network
from pipeline.model.conversion.state_dict import read_state_dict
from pipeline.pose.joint_file import read_joint_file
from pipeline.pose.joint_set import JointSet
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Person
from pipeline.run import metadata as checkpoint_json
from pipeline.run.checkpoint import OPTIMIZER_NAME, WEIGHTS_NAME, load_training, load_weights
from pipeline.run.journal import JOURNAL_NAME, Journal
from pipeline.run.manifest import MANIFEST, Manifest
from pipeline.run.metadata import METADATA_NAME, read_metadata
from pipeline.settings import Settings
from pipeline.settings.packing import AnnotationFiles, PackSettings
from pipeline.training.step import build_optimizer

Mutation = Callable[[bytes], st.SearchStrategy[bytes]]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A reader of the file `name` in a folder that `prepare` fills; the file is then mutated.

    `read` gets the folder. `sign` is applied to mutated bytes, where a checksum would otherwise
    refuse them all. Errors hold `names`, by default the file's name. Without `refuses` the reader
    takes any bytes. `format` is the annotation format that is read. `genuine` is a file of a
    labelling tool, which lies beside the repository.
    """

    name: str
    read: Callable[[Path], object]
    mutations: Sequence[Mutation]
    prepare: Callable[[Path], object] = lambda folder: None
    sign: Callable[[bytes], bytes] = bytes
    names: str | None = None
    refuses: bool = True
    format: str = ""
    genuine: str = ""


def _read_record(folder: Path) -> None:
    made = sample_from(sample(0).crop.jpeg, (folder / "a.json").read_bytes(), "a.tar: a")
    loader = SampleLoader([made], MPII, 64)
    loader.load(made, Augmentation(), np.empty((64, 64, 3), np.uint8))
    record_of(made)


def _read_index(folder: Path) -> None:
    Index.read(folder)
    find_shards("data.train", str(folder / "*.tar"))


def _signed(data: bytes) -> bytes:
    """Give a mutated checkpoint.json the checksum that it then needs."""
    try:
        content = json.loads(data)
        content["checksum"] = checkpoint_json._checksum(content)
    except (ValueError, TypeError, RecursionError):
        return data
    return json.dumps(content).encode()


def _network() -> torch.nn.Module:
    return build_network(Settings.from_flat(TINY_NETWORK).model, 0, torch.device("cpu"))


def _read_training(folder: Path) -> None:
    network = _network()
    optimizer = build_optimizer(network, Settings().optim)
    load_training(folder, optimizer)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def _read_weights(folder: Path) -> None:
    load_weights(folder, _network())


def _read_journal(folder: Path) -> None:
    journal = Journal(folder)
    journal.entries()
    journal.models()
    journal.history(["pckh_0.5"])


def _read_results(folder: Path) -> None:
    read_coco_results(folder / "results.json", read_coco_truth(folder / "a.json"))


def _checked(joint_set: JointSet, people: Sequence[Person]) -> None:
    assert all(len(person.joints) == len(joint_set.joints) for person in people)
    assert np.isfinite([person.joints for person in people]).all()


def _alone(name: str, joint_set: str = "") -> Callable[[Path], object]:
    """Return a reader of annotations without their pictures, which takes a tenth of the time."""

    def read(folder: Path) -> None:
        source, path, _ = recognise(folder / name)
        given = folder / joint_set if joint_set else None
        found = read_annotations(source, AnnotationFiles(annotations=path, joint_set=given))
        _checked(found.joint_set, found.people)

    return read


def _planned(name: str) -> Callable[[Path], object]:
    """Return a reader of annotations that plans to pack them with their pictures."""

    def read(folder: Path) -> None:
        settings = PackSettings(
            source=str(folder / name), out=folder / "out", split="train", max_left_out=1.0
        )
        plan = plan_packing(settings)
        _checked(plan.joint_set, [person for job in plan.jobs for person in job.people])

    return read


@cache
def _served(folder: Path) -> ServedModel:
    return ServedModel(folder)


def _read_request(folder: Path) -> None:
    rows = parse_json((folder / "request.json").read_bytes(), "request")
    _served(folder / "model").predict(pd.DataFrame(rows))


def _stream(folder: Path) -> None:
    shards = ShardStream(locations=[str(folder / _SHARD)], seed=0, rank=0, workers=1, window=4)
    for made in shards.first(2, BadSamples(0)):
        made.pixels(CropDecoder())


def _redact(folder: Path) -> None:
    shown = redacted((folder / "uri.txt").read_text(errors="replace"))
    assert "SECRET" not in shown
    assert redacted(shown) == shown


def _of_tool(name: str) -> Reader:
    """Return a reader of a labelling tool's small file."""
    inside = tool_files.PATHS[name]
    is_json, is_binary = inside.endswith(".json"), inside.endswith((".h5", ".slp"))
    return Reader(
        name=inside,
        prepare=tool_files.FILES[name],
        read=_planned(inside),
        mutations=JSON_TEXT if is_json else (of_bytes,) if is_binary else (of_text, of_bytes),
        format=name.removesuffix("-h5").removesuffix("-video").removesuffix("-package"),
    )


def _genuine(path: str) -> Reader:
    """Return a reader of a genuine file in tests' data."""
    name = Path(path).name
    is_binary = path.endswith((".h5", ".slp", ".mat"))
    mutations = (of_bytes,) if is_binary else (of_text, of_bytes)
    return Reader(name=name, genuine=path, read=_alone(name), mutations=mutations)


_SHARD = "train-000000.tar"
JSON: tuple[Mutation, ...] = (of_json, of_json, of_json, of_bytes)
JSON_TEXT: tuple[Mutation, ...] = (*JSON, of_text)
_ARRAYS: tuple[Mutation, ...] = (of_arrays, of_arrays, of_bytes)
_TEXT: tuple[Mutation, ...] = (of_text, of_text, of_bytes)
_PARQUET = "application/vnd.apache.parquet"
# Files beside the repository.
_GENUINE = (
    "coco_ap_goldens/test_coco.json",
    "coco_mini/person_keypoints_train2017.json",
    "coco_mini/person_keypoints_val2017.json",
    "coco_other_joints/aic/test_aic.json",
    "coco_other_joints/ap10k/test_ap10k.json",
    "coco_other_joints/crowdpose/test_crowdpose.json",
    "coco_other_joints/horse10/test_horse10.json",
    "coco_other_joints/macaque/test_macaque.json",
    "cvat/for_images/train.xml",
    "cvat/for_video/annotations.xml",
    "dlc_openfield/labeled-data/m4s1/CollectedData_Pranav.csv",
    "dlc_openfield/labeled-data/m4s1/CollectedData_Pranav.h5",
    *(
        f"dlc_variants/labeled-data/video/{name}.csv"
        for name in (
            "CollectedData_LM",
            *(f"{kind}dlc_testdata{end}" for kind in ("", "ma", "mau") for end in ("", "_v2")),
        )
    ),
    "label_studio/data_keypoints.json",
    "lightning_pose_mouse/CollectedData.csv",
    "sleap/dance.mp4.labels.slp",
    "mpii_mat_tiny/mpii_human_pose_v1_u12_1.mat",
    "sleap/minimal_instance.slp",
    "sleap/small_robot_minimal.slp",
    "yolo_pose/data.yaml",
    "yolo_pose_xy/data.yaml",
)

READERS: Mapping[str, Reader] = {
    "shard record": Reader(
        name="a.json", prepare=seeds.record, read=_read_record, mutations=JSON, names="a.tar: a"
    ),
    "stored crop": Reader(
        name="a.jpg",
        prepare=lambda folder: (folder / "a.jpg").write_bytes(sample(0).crop.jpeg),
        read=lambda folder: CropDecoder().decode((folder / "a.jpg").read_bytes()),
        mutations=(of_bytes,),
        names="",
    ),
    "streamed shard": Reader(
        name=_SHARD, prepare=seeds.packed, read=_stream, mutations=(of_bytes,)
    ),
    "scanned shard": Reader(
        name=_SHARD,
        prepare=seeds.packed,
        read=lambda folder: Members.scan(folder / _SHARD),
        mutations=(of_bytes,),
    ),
    "index.json": Reader(name=INDEX_NAME, prepare=seeds.packed, read=_read_index, mutations=JSON),
    "members.npz": Reader(
        name=MEMBERS_NAME,
        prepare=seeds.packed,
        read=lambda folder: members_from((folder / MEMBERS_NAME).read_bytes(), MEMBERS_NAME),
        mutations=_ARRAYS,
    ),
    "people.npz": Reader(
        name=PEOPLE_NAME,
        prepare=seeds.people,
        read=lambda folder: read_results(folder / PEOPLE_NAME),
        mutations=_ARRAYS,
    ),
    "evaluation.json": Reader(
        name=EVALUATION_NAME,
        prepare=seeds.evaluation,
        read=lambda folder: Evaluation.read(folder / EVALUATION_NAME, MPII).scores(MPII),
        mutations=JSON,
    ),
    "checkpoint.json": Reader(
        name=METADATA_NAME,
        prepare=seeds.checkpoint,
        read=read_metadata,
        mutations=JSON,
        sign=_signed,
    ),
    "optimizer.pt": Reader(
        name=OPTIMIZER_NAME,
        prepare=seeds.checkpoint,
        read=_read_training,
        mutations=(of_tensors, of_tensors, of_bytes),
    ),
    "weights.safetensors": Reader(
        name=WEIGHTS_NAME, prepare=seeds.checkpoint, read=_read_weights, mutations=(of_bytes,)
    ),
    "weights to convert": Reader(
        name="a.pth",
        prepare=seeds.torch_weights,
        read=lambda folder: read_state_dict(folder / "a.pth"),
        mutations=(of_tensors, of_bytes),
    ),
    "journal.jsonl": Reader(
        name=JOURNAL_NAME,
        prepare=seeds.journal,
        read=_read_journal,
        mutations=(of_json_lines, of_json_lines, of_bytes),
    ),
    "manifest.json": Reader(
        name=MANIFEST,
        prepare=seeds.manifest,
        read=lambda folder: Manifest.parsed((folder / MANIFEST).read_bytes(), MANIFEST),
        mutations=(of_json, of_json, of_bytes),
    ),
    "joint-set file": Reader(
        name="horse.toml",
        prepare=seeds.joint_set,
        read=lambda folder: read_joint_file(folder / "horse.toml"),
        mutations=_TEXT,
    ),
    **{
        f"picture, {kind}": Reader(
            name=f"a.{kind}",
            prepare=seeds.picture(f"a.{kind}"),
            read=lambda folder, name=f"a.{kind}": open_photograph(folder / name),
            mutations=(of_bytes,),
        )
        for kind in ("jpg", "png", "webp", "tiff", "bmp", "gif", "ppm", "jp2")
    },
    "mpii-json": Reader(
        name="a.json",
        prepare=seeds.mpii_json,
        read=_alone("a.json"),
        mutations=JSON,
        format="mpii-json",
    ),
    "mpii-hrnet": Reader(
        name="a.json",
        prepare=seeds.mpii_hrnet,
        read=_alone("a.json"),
        mutations=JSON,
        format="mpii-hrnet",
    ),
    "mpii-mat": Reader(
        name="a.mat",
        prepare=lambda folder: author_files.write_release(
            folder / "a.mat", [author_files.image("a.jpg", author_files.rect())]
        ),
        read=_alone("a.mat"),
        mutations=(of_bytes,),
        format="mpii-mat",
    ),
    "mpii-h5": Reader(
        name="a.h5",
        prepare=lambda folder: author_files.write_h5(folder / "a.h5", author_files.h5_fields()),
        read=_alone("a.h5"),
        mutations=(of_bytes,),
        format="mpii-h5",
    ),
    "flic": Reader(
        name="a.h5",
        prepare=lambda folder: author_files.write_h5(
            folder / "a.h5", author_files.h5_fields(joints=11)
        ),
        read=_alone("a.h5"),
        mutations=(of_bytes,),
        format="flic",
    ),
    "lsp": Reader(
        name="a.mat",
        prepare=lambda folder: author_files.write_lsp(folder / "a.mat", author_files.lsp_array()),
        read=_alone("a.mat"),
        mutations=(of_bytes,),
        format="lsp",
    ),
    "lspet": Reader(
        name="a.mat",
        prepare=lambda folder: author_files.write_lsp(folder / "a.mat", author_files.lspet_array()),
        read=_alone("a.mat"),
        mutations=(of_bytes,),
        format="lspet",
    ),
    "table": Reader(
        name="a.csv",
        prepare=seeds.table,
        read=_alone("a.csv", joint_set="horse.toml"),
        mutations=_TEXT,
        format="table",
    ),
    "table in Parquet": Reader(
        name="a.parquet",
        prepare=seeds.parquet,
        read=lambda folder: read_boxes(folder / "a.parquet"),
        mutations=(of_bytes,),
    ),
    "coco, people": Reader(
        name="a.json", prepare=seeds.coco, read=_alone("a.json"), mutations=JSON, format="coco"
    ),
    **{name: _of_tool(name) for name in tool_files.FILES},
    "yolo-pose, labels": Reader(
        name="labels/train/a.txt",
        prepare=tool_files.FILES["yolo-pose"],
        read=_alone("data.yaml"),
        mutations=_TEXT,
        format="yolo-pose",
        refuses=False,
    ),
    "label-studio, configuration": Reader(
        name="config.xml",
        prepare=tool_files.FILES["label-studio"],
        read=_alone("tasks.json"),
        mutations=_TEXT,
        format="label-studio",
        refuses=False,
    ),
    "head boxes": Reader(
        name="a.mat",
        prepare=seeds.truth,
        read=lambda folder: read_mpii_truth(folder / "a.mat"),
        mutations=(of_bytes,),
    ),
    "predictions, mat": Reader(
        name="preds.mat",
        prepare=seeds.truth,
        read=lambda folder: read_mpii_predictions(folder / "preds.mat", 2),
        mutations=(of_bytes,),
    ),
    "predictions, h5": Reader(
        name="preds.h5",
        prepare=seeds.truth,
        read=lambda folder: read_mpii_predictions(folder / "preds.h5", 2),
        mutations=(of_bytes,),
    ),
    "coco truth": Reader(name="a.json", prepare=seeds.coco, read=_read_results, mutations=JSON),
    "coco results": Reader(
        name="results.json", prepare=seeds.coco, read=_read_results, mutations=JSON
    ),
    "boxes of annotations": Reader(
        name="a.json",
        prepare=seeds.boxes,
        read=lambda folder: read_boxes(folder / "a.json"),
        mutations=JSON,
    ),
    "detections": Reader(
        name="detections.json",
        prepare=seeds.boxes,
        read=lambda folder: read_boxes(folder / "detections.json"),
        mutations=JSON,
    ),
    "served request": Reader(
        name="request.json", prepare=seeds.request, read=_read_request, mutations=JSON, names=""
    ),
    "served request in Parquet": Reader(
        name="a.parquet",
        prepare=seeds.parquet,
        read=lambda folder: check_body((folder / "a.parquet").read_bytes(), _PARQUET),
        mutations=(of_bytes,),
        refuses=False,
    ),
    "URI to redact": Reader(
        name="uri.txt", prepare=seeds.uris, read=_redact, mutations=(of_uri,), refuses=False
    ),
    **{f"genuine {path}": _genuine(path) for path in _GENUINE},
    **{
        f"genuine labels of {name}": Reader(
            name="labels/train/1.txt",
            genuine=f"{name}/data.yaml",
            read=_alone("data.yaml"),
            mutations=_TEXT,
            # Of no labels at all the dataset is named.
            names="",
            refuses=False,
        )
        for name in ("yolo_pose", "yolo_pose_xy")
    },
}
