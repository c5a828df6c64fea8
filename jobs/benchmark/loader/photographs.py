"""Data of the loader's benchmark: photographs, people framed in them, and shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.data.photographs.pixels import open_photograph, rgb
from pipeline.data.shards.crop import Image, cut_crop
from pipeline.data.shards.members import MEMBERS_NAME, Members, members_bytes
from pipeline.data.shards.sample import Sample
from pipeline.data.shards.writer import ShardName, write_shard
from pipeline.data.synthetic.scene import render_scene
from pipeline.pose.joint_sets import MPII
from pipeline.pose.person import Person, Visibility
from pipeline.settings.packing import CropSettings

Size = tuple[int, int]

# The widths and heights of most of MPII's photographs.
SIZES: tuple[Size, ...] = ((1280, 720), (1920, 1080))
# Side of a person's frame over the photograph's height; covers three quarters of MPII's people.
_FRAME_SHARES = 0.4, 1.25
_RENDERED_QUALITY = 90
# Grain of these sides in pixels and sensor noise, as deviations of 255 levels: rendered
# photographs then take 220 and 480 KB, between MPII's lighter and heavier ones.
_GRAIN_PX, _GRAIN, _NOISE = (2, 4, 8, 16), 4.0, 2.0
_ENDINGS = (".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """People in photographs of one size, and the shard of their crops."""

    size: Size
    folder: Path
    people: tuple[Person, ...]
    shard: str

    @property
    def name(self) -> str:
        """The size, such as 1280x720."""
        return f"{self.size[0]}x{self.size[1]}"

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(sorted({person.image for person in self.people}))


def find_photographs(folder: Path, sizes: Sequence[Size], most: int) -> dict[Size, list[str]]:
    """Find the first `most` JPEGs of each size in a folder, by name; omit sizes without any.

    Raises ValueError naming the folder if there is none of any size.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of photographs")
    found: dict[Size, list[str]] = {size: [] for size in sizes}
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)
    for path in paths:
        if all(len(names) == most for names in found.values()):
            break
        height, width = open_photograph(path).image.shape[:2]
        names = found.get((width, height))
        if names is not None and len(names) < most:
            names.append(path.name)
    held = {size: names for size, names in found.items() if names}
    if not held:
        wanted = " or ".join(f"{width}x{height}" for width, height in sizes)
        raise ValueError(f"{folder}: none of its {len(paths)} JPEG photographs has {wanted} pixels")
    return held


def render_photographs(folder: Path, sizes: Sequence[Size], count: int) -> dict[Size, list[str]]:
    """Write `count` rendered photographs of each size, as hard for JPEG as real ones."""
    folder.mkdir(parents=True)
    made: dict[Size, list[str]] = {}
    for size in sizes:
        made[size] = [f"rendered-{size[1]}-{index:03d}.jpg" for index in range(count)]
        for index, name in enumerate(made[size]):
            bgr = cv2.cvtColor(_render(index, size), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(folder / name), bgr, [cv2.IMWRITE_JPEG_QUALITY, _RENDERED_QUALITY])
    return made


def frame_people(names: Sequence[str], size: Size, count: int) -> list[Person]:
    """Frame people at random, spread evenly over photographs; joints lie anywhere in a frame."""
    random = np.random.default_rng([*size, count])
    people = []
    for number in range(count):
        frame = size[1] * random.uniform(*_FRAME_SHARES)
        center = random.uniform((0, 0), size)
        joints = center + frame * random.uniform(-0.4, 0.4, (len(MPII.joints), 2))
        people.append(
            Person(
                image=names[number % len(names)],
                person=number,
                center=(float(center[0]), float(center[1])),
                scale=float(frame / 200),
                joints=tuple((float(x), float(y)) for x, y in joints),
                visibility=(Visibility.VISIBLE,) * len(MPII.joints),
                head_size=float(frame / 10),
                image_size=size,
            )
        )
    return people


def with_photographs(folder: Path, people: Sequence[Person]) -> Iterator[tuple[int, Image]]:
    """Yield each person's position and photograph, in the order of the photographs."""
    name, image = "", np.empty((0, 0, 3), np.uint8)
    for number in sorted(range(len(people)), key=lambda number: people[number].image):
        if people[number].image != name:
            name = people[number].image
            image = rgb(open_photograph(folder / name))
        yield number, image


def cut_people(folder: Path, people: Sequence[Person], crop: CropSettings) -> list[Sample]:
    """Cut the people's crops, in their order."""
    found = {
        number: Sample(person=people[number], crop=cut_crop(image, people[number], crop))
        for number, image in with_photographs(folder, people)
    }
    return [found[number] for number in range(len(people))]


def pack_people(out: Path, workloads: Sequence[Sequence[Sample]]) -> list[str]:
    """Write a shard for each list of samples, with members.npz beside them, as jobs.pack does."""
    out.mkdir(parents=True)
    names = [
        write_shard(out, ShardName(split="train", number=number), samples).name
        for number, samples in enumerate(workloads)
    ]
    members = {name: Members.scan(out / name) for name in names}
    (out / MEMBERS_NAME).write_bytes(members_bytes(members))
    return [str(out / name) for name in names]


def _render(index: int, size: Size) -> Image:
    """Enlarge a rendered scene to the height, mirror it to the width, and add a camera's grain."""
    (width, height), random = size, np.random.default_rng([*size, index])
    scene, _ = render_scene(0, index)
    factor = height / scene.shape[0]
    enlarged = cv2.resize(
        scene, (min(width, round(factor * scene.shape[1])), height), interpolation=cv2.INTER_CUBIC
    )
    left = (width - enlarged.shape[1]) // 2
    right = width - enlarged.shape[1] - left
    whole = cv2.copyMakeBorder(enlarged, 0, 0, left, right, cv2.BORDER_REFLECT)
    noise = _NOISE * random.standard_normal((height, width, 3), np.float32)
    for side in _GRAIN_PX:
        coarse = random.standard_normal((height // side + 2, width // side + 2), np.float32)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        noise += _GRAIN * fine[..., None]
    return np.clip(whole + noise, 0, 255).astype(np.uint8)
