"""Synthetic people, photographs, samples and packed folders."""

import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from pipeline.data.batch import Batch
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.crop import cut_crop
from pipeline.data.shards.index import Index
from pipeline.data.shards.members import MEMBERS_NAME, Members, members_bytes
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import Sample
from pipeline.data.shards.writer import ShardName, write_shard
from pipeline.data.synthetic.scene import render_scene
from pipeline.model.build import build_network
from pipeline.pose.joint_sets import MPII, PCK_BOX, JointSet
from pipeline.pose.person import Person, Split, Visibility
from pipeline.run.checkpoint import take_snapshot, write_checkpoint
from pipeline.run.metadata import CheckpointMetadata, Progress
from pipeline.settings import Settings
from pipeline.settings.packing import CropSettings

# A network that takes a moment to build.
TINY_NETWORK = {
    "model.stacks": 1,
    "model.features": 8,
    "model.order": 2,
    "model.joints": 16,
    "model.input_px": 64,
}
# A training that takes a moment, by the functions of the Python API.
SMALL_CALL = {
    "model.stacks": 1,
    "model.features": 8,
    "model.input_px": 64,
    "optim.batch_size": 2,
    "optim.epochs": 1,
    "evaluation.flip_test": False,
}
# A joint set of a user's own.
BIRD = JointSet(
    name="bird",
    joints=("beak", "left_wing", "right_wing"),
    flip_pairs=((1, 2),),
    limbs=((0, 1), (0, 2)),
    groups=(),
    in_mean=(0, 1, 2),
    measures=(PCK_BOX,),
)


def person(*, joint_set: JointSet = MPII, **changes: Any) -> Person:
    """Make a person in a frame of side 100 around (100, 80), with joints on a grid of 15 pixels."""
    joints = tuple(
        (100.0 + 15 * (k % 4 - 1.5), 80.0 + 15 * (k // 4 - 1.5))
        for k in range(len(joint_set.joints))
    )
    made = Person(
        image="photo-000.jpg",
        person=0,
        center=(100.0, 80.0),
        scale=0.5,
        joints=joints,
        visibility=(Visibility.VISIBLE,) * len(joints),
        head_size=20.0,
    )
    return replace(made, **changes)


def photograph(width: int = 200, height: int = 160, seed: int = 0) -> np.ndarray:
    """Make a blurred random pattern, RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def sample(number: int = 0, *, person_px: int = 64, **changes: Any) -> Sample:
    """Make a sample cut from photograph `number`."""
    made = person(**{"image": f"photo-{number:03d}.jpg"} | changes)
    settings = CropSettings(person_px=person_px, margin=1.5, jpeg_quality=95)
    return Sample(person=made, crop=cut_crop(photograph(seed=number), made, settings))


def samples(count: int, *, first: int = 0, **changes: Any) -> list[Sample]:
    """Make samples numbered from `first`, each from another photograph."""
    return [sample(first + number, **changes) for number in range(count)]


def index_of(entries: Sequence[Any], **changes: Any) -> Index:
    """Make an index of shards as a packing job would write it."""
    made = Index(
        source="made",
        joint_set=MPII,
        annotations={"made.json": "0" * 64},
        conventions={"index_base": 0, "center_adjusted": False},
        crop=CropSettings(person_px=64, margin=1.5, jpeg_quality=95),
        plan="00000000",
        shards=tuple(entries),
        skipped={},
        left_out={},
    )
    return replace(made, **changes)


def pack_samples(
    folder: Path,
    shards: Sequence[Sequence[Sample]],
    *,
    split: Split = "train",
    members: bool = False,
    **changes: Any,
) -> list[Path]:
    """Write a shard for each list of samples, and their index; return the shards' paths.

    Without `members` there is no members.npz, so readers scan the tars.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        write_shard(folder, ShardName(split=split, number=number), content)
        for number, content in enumerate(shards)
    ]
    if members:
        content = members_bytes({e.name: Members.scan(folder / e.name) for e in entries})
        (folder / MEMBERS_NAME).write_bytes(content)
        changes = {"members": hashlib.sha256(content).hexdigest()} | changes
    index_of(entries, **changes).write(folder)
    return [folder / entry.name for entry in entries]


def checkpoint(
    folder: Path,
    metrics: dict[str, float] | None = None,
    joint_set: JointSet = MPII,
    crop: CropSettings | None = None,
    **changes,
) -> Settings:
    """Write a tiny checkpoint whose random heads find joints somewhere; return its settings."""
    settings = Settings.from_flat(
        {
            "model.stacks": 2,
            "model.features": 8,
            "model.joints": len(joint_set.joints),
            "model.input_px": 64,
            "evaluation.batch_size": 2,
        }
        | changes
    )
    folder.mkdir(parents=True)
    network = build_network(settings.model, 0, torch.device("cpu"), zero_heads=False)
    metadata = CheckpointMetadata(
        settings=settings,
        joint_set=joint_set,
        progress=Progress(epochs=1),
        metrics=metrics or {},
        crop=crop,
    )
    write_checkpoint(folder, take_snapshot(network, metadata))
    return settings


def packed(tmp_path: Path, folder: str = "packed", joint_set=MPII, **changes) -> Path:
    """Pack six people for training in two shards, and two for validation."""
    training = [samples(3, joint_set=joint_set), samples(3, first=3, joint_set=joint_set)]
    pack_samples(tmp_path / folder / "train", training, joint_set=joint_set)
    validation = samples(2, first=6, joint_set=joint_set, **changes)
    pack_samples(tmp_path / folder / "val", [validation], split="val", joint_set=joint_set)
    return tmp_path / folder


def settings_of(folder: Path, **changes) -> Settings:
    return Settings.from_flat(
        {
            "data.train": str(folder / "train" / "*.tar"),
            "data.val": str(folder / "val" / "*.tar"),
            "model.stacks": 1,
            "model.features": 8,
            "model.input_px": 64,
        }
        | changes
    )


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def film(path: Path, frames: int) -> Path:
    """Write a video whose frames are different greys."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


def rendered_people(folder: Path, count: int) -> SampleLoader:
    """Pack rendered people, and return their loader: pictures of 64 pixels, heatmaps of 16."""
    made = []
    for index in range(count):
        image, (person, *_) = render_scene(0, index)
        made.append(Sample(person=person, crop=cut_crop(image, person, CropSettings(person_px=64))))
    paths = pack_samples(folder, [made])
    return SampleLoader(ShardReader([str(path) for path in paths]), MPII, 64)


def touched(folder: Path, *names: str) -> list[Path]:
    """Create empty files; return their paths."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def same_batch(one: Batch, other: Batch) -> bool:
    """Whether two batches have the same people with the same pixels."""
    return all(
        (getattr(one, name) == getattr(other, name)).all()
        for name in ("images", "joints", "annotated", "gains", "positions")
    )
