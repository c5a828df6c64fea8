"""Find people's joints in photographs and videos: `python -m jobs.predict --help`."""

import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro

from jobs.options import (
    Address,
    Device,
    Model,
    OutFolder,
    Stacks,
    Storage,
    Threads,
    TrackingUri,
    Weights,
    output_at,
    torch_device,
)
from pipeline.io.console import Pace, duration, say
from pipeline.io.location import is_store, local_path
from pipeline.io.output import Output
from pipeline.io.progress import ProgressBar
from pipeline.io.text import one_line
from pipeline.settings import RaySettings
from pipeline.settings.cli import clear_errors, fail, parse
from pipeline.settings.packing import MAX_PIXELS

if TYPE_CHECKING:
    import torch

    from pipeline.inference.batch_predictor import Options
    from pipeline.inference.plan import PredictionPlan
    from pipeline.inference.results import Failure, Found, Part
    from pipeline.inference.store import Store

Format = Literal[
    "json", "csv", "coco", "mat", "yolo-pose", "deeplabcut", "sleap", "cvat", "label-studio"
]
# Failures that are printed; predictions.json has all of them.
_MOST_NAMED = 20
# Files of a format that are printed.
_MOST_FILES = 4
_NOTES = {
    "coordinates": "pixels of the image held upright as EXIF says, the first one's centre at 0; "
    "in predictions.mat at 1",
    "confidence": "height of the heatmap at the joint, as a share of the training target's; "
    "not a probability",
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Find people's joints in photographs and videos. Run the same command again to resume."""

    model: Model
    inputs: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="INPUT ...")]]
    """Images, videos, folders of them, globs."""
    out: OutFolder = "out/predictions"
    """Folder for the results, also in a bucket (s3://, gs://, az://); in a submitted job below
    ~/hourglass-ray."""
    boxes: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """People's boxes: COCO annotations or detections (.json), or a table (.csv, .parquet) of image
    and either x, y, width, height or center_x, center_y, scale, with frame for videos. None: each
    picture holds one person who fills it."""
    boxes_category: Annotated[str, tyro.conf.arg(metavar="ID|NAME")] = ""
    """Category of a .json file's entries to find joints of; empty: person, or the only one."""
    formats: tuple[Format, ...] = ("json",)
    """Files to write: predictions.json, .csv or .mat (as in MPII), COCO's results and annotations,
    or what a labelling tool opens for correction."""
    overlays: bool = False
    """Draw skeletons, joint names and confidences over the pictures, in DIR/overlays."""
    heatmaps: bool = False
    """Write all heatmaps to DIR/heatmaps."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of a photograph; larger ones are reported and left out."""
    stacks: Stacks = 0
    weights: Weights = "auto"
    exact: bool = False
    """Compute in fp32, as evaluation does, also on CPUs that are faster in bf16."""
    device: Device = "auto"
    threads: Threads = 2
    workers: Annotated[int, tyro.conf.arg(name="ray.workers")] = 0
    """Workers on a Ray cluster, whose nodes all see the pictures; 0: this process, without one."""
    cpus_per_worker: Annotated[float, tyro.conf.arg(name="ray.cpus-per-worker")] = 1.0
    """CPU cores of a worker; also its threads."""
    gpus_per_worker: Annotated[float, tyro.conf.arg(name="ray.gpus-per-worker")] = 0.0
    """GPUs of a worker; 0: it computes on CPU."""
    address: Address = ""
    storage: Storage = ""
    uri: TrackingUri = ""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors("the same command resumes"), tempfile.TemporaryDirectory() as folder:
        failures = predict(arguments, Path(folder))
        if failures:
            fail(f"{len(failures):,} files could not be read; all others are done")


def predict(arguments: Arguments, place: Path) -> "list[Failure]":
    """Predict, write the files, and return the inputs that could not be read.

    `place` is a folder for a downloaded checkpoint. Raises ValueError.
    """
    from pipeline.inference.plan import plan_prediction
    from pipeline.run.cut import cut_checkpoint
    from pipeline.run.plan import working_root
    from pipeline.tracking.lookup import find_checkpoint

    settings = _ray_settings(arguments)
    # Workers of a cluster have devices of their own.
    name = "cpu" if arguments.workers else arguments.device
    device = torch_device(name, arguments.threads)
    checkpoint = find_checkpoint(arguments.model, arguments.storage, arguments.uri, place)
    plan = plan_prediction(
        cut_checkpoint(checkpoint, arguments.stacks, place),
        arguments.inputs,
        arguments.boxes,
        arguments.weights,
        category=arguments.boxes_category,
        heatmaps=arguments.heatmaps,
        exact=arguments.exact,
    )
    # A submitted job's working folder is removed at its end.
    is_submitted = working_root() != Path.cwd()
    out = arguments.out
    if is_submitted and not is_store(out):
        out = str(working_root() / local_path(out))
    with output_at(out) as output:
        _predict(arguments, plan, output, _options(arguments, plan, settings, device), settings)
    return plan.failures


def _predict(
    arguments: Arguments,
    plan: "PredictionPlan",
    output: Output,
    options: "Options",
    settings: RaySettings,
) -> None:
    """Predict what has no results yet, and write the files with all of them."""
    from pipeline.inference.store import JOB, PARTS, Store

    output.fetch(JOB)
    output.fetch_all(PARTS)
    store = Store(output.folder, output.location)
    store.open(plan.job)
    parts = store.missing(plan.sources, plan.frames)
    _describe(arguments, plan, store)
    found = (
        _on_cluster(parts, plan, options, settings)
        if arguments.workers
        else _here(parts, plan, options)
    )
    _follow(_sent(found, output), parts, store, plan.failures)
    _write(arguments, plan, store)
    output.send()
    for failure in plan.failures[:_MOST_NAMED]:
        say(f"could not read {one_line(failure.file)}: {one_line(failure.why)}")
    if len(plan.failures) > _MOST_NAMED:
        say(f"and {len(plan.failures) - _MOST_NAMED} more")
    say(_counts(plan, store))


def _sent(results: "Iterator[Found]", output: Output) -> "Iterator[Found]":
    """Pass results on, and send each when it has been stored."""
    for found in results:
        yield found
        output.send()


def _counts(plan: "PredictionPlan", store: "Store") -> str:
    """Return the last line: what the files hold, and what was left out."""
    estimates = store.estimates(plan.sources)
    people = sum(len(estimate.people) for estimate in estimates)
    ignored = sum(plan.boxes.boxes.left_out.values()) if plan.boxes else 0
    return (
        f"in all: {people:,} people in {len(estimates):,} pictures; "
        f"not read: {len(plan.failures):,} files"
        + f"; boxes ignored: {ignored:,}"
        * (plan.boxes is not None)
    )


def _ray_settings(arguments: Arguments) -> RaySettings:
    """Return the settings of the workers. Raises ValueError naming a wrong option."""
    if arguments.workers < 0:
        raise ValueError(f"ray.workers must be at least 0, got {arguments.workers}")
    if arguments.max_pixels < 1:
        raise ValueError(f"--max-pixels must be at least 1, got {arguments.max_pixels}")
    known = get_args(Format)
    if not arguments.formats or not set(arguments.formats) <= set(known):
        raise ValueError(
            f"--formats must name at least one of {', '.join(known)}, got {arguments.formats}"
        )
    return RaySettings(
        address=arguments.address,
        workers=max(arguments.workers, 1),
        cpus_per_worker=arguments.cpus_per_worker,
        gpus_per_worker=arguments.gpus_per_worker,
    )


def _describe(arguments: Arguments, plan: "PredictionPlan", store: "Store") -> None:
    if plan.others:
        say(f"skipped: {plan.others:,} files that are neither images nor videos")
    evaluation = plan.metadata.settings.evaluation
    flip = "with" if evaluation.flip_test else "without"
    say(
        f"{plan.checkpoint.name}: {plan.metadata.joint_set.name}, "
        f"{len(plan.metadata.joint_set.joints)} joints, {flip} flip test, "
        f"decoding {evaluation.decoding}"
    )
    videos, frames = len(plan.frames), sum(plan.frames.values())
    photographs = sum(not source.is_video for source in plan.sources)
    inputs = f"{photographs:,} images" + f", {frames:,} frames of {videos} videos" * bool(videos)
    done = len(store.estimates(plan.sources))
    say(inputs + f"; {done:,} of them were done before" * bool(done))
    if plan.boxes is None:
        say("no --boxes: assuming one person a picture, who fills it")
        return
    if plan.boxes.unknown:
        say(
            f"{plan.boxes.unknown:,} pictures of {arguments.boxes} are not among the inputs: "
            f"{plan.boxes.examples()}"
        )
    if plan.boxes.boxes.category:
        say(f"{arguments.boxes}: {plan.boxes.boxes.category}")
    for reason, count in plan.boxes.boxes.left_out.items():
        say(f"{count:,} entries of {arguments.boxes} are ignored: {reason}")


def _options(
    arguments: Arguments, plan: "PredictionPlan", settings: RaySettings, device: "torch.device"
) -> "Options":
    from pipeline.inference.batch_predictor import Options

    on_cluster, cpus = arguments.workers > 0, max(1, int(settings.cpus_per_worker))
    return Options(
        root=Path.cwd(),
        weights=arguments.weights,
        exact=arguments.exact,
        boxes=plan.boxes,
        heatmaps=arguments.heatmaps,
        max_pixels=arguments.max_pixels,
        threads=cpus if on_cluster else arguments.threads,
        is_cuda=settings.gpus_per_worker > 0 if on_cluster else device.type == "cuda",
    )


def _here(parts: "Sequence[Part]", plan: "PredictionPlan", options: "Options") -> "Iterator[Found]":
    from pipeline.inference.batch_predictor import Estimator

    if parts:
        yield from map(Estimator(plan.checkpoint, options).estimate, parts)


def _on_cluster(
    parts: "Sequence[Part]", plan: "PredictionPlan", options: "Options", settings: RaySettings
) -> "Iterator[Found]":
    from pipeline.cluster.start import check_capacity, cluster
    from pipeline.inference.ray_data import estimate_on_cluster

    if parts:
        with cluster(settings.address):
            check_capacity(settings)
            yield from estimate_on_cluster(parts, plan.checkpoint, options, settings)


def _follow(
    results: "Iterator[Found]", parts: "Sequence[Part]", store: "Store", failures: "list[Failure]"
) -> None:
    """Store each result as it comes, and show the progress."""
    total, pace = sum(part.pictures() for part in parts), Pace(0)
    done = read = people = 0
    with ProgressBar(total, "pictures", "predicting") as progress:
        for found in results:
            store.keep(found)
            failures += found.failures
            read += len(found.estimates)
            done += len(found.estimates) + len(found.failures)
            people += sum(len(estimate.people) for estimate in found.estimates)
            progress.to(done, f"{people:,} people")
    if total:
        say(f"{people:,} people in {read:,} pictures, in {duration(pace.elapsed_s())}")


def _write(arguments: Arguments, plan: "PredictionPlan", store: "Store") -> None:
    """Write the files with all results so far."""
    from pipeline.inference.formats.registry import FORMATS
    from pipeline.inference.formats.tables import Results

    estimates = store.estimates(plan.sources)
    results = Results(
        joint_set=plan.metadata.joint_set,
        model={"asked": arguments.model, "checkpoint": plan.checkpoint.name, **plan.job},
        estimates=estimates,
        failures=plan.failures,
        boxes=plan.boxes,
        notes=_NOTES,
    )
    for kind in dict.fromkeys(arguments.formats):
        written = FORMATS[kind](results)
        for name, data in written.files.items():
            store.write(name, data)
        say(f"written: {_shown(written.files, store)}")
        for note in written.notes:
            say(note)
    if arguments.heatmaps:
        say(f"written: {store.location}/heatmaps")
    if arguments.overlays:
        _draw(store, plan, arguments.max_pixels)


def _shown(files: Collection[str], store: "Store") -> str:
    """Name a format's files, or where there are many their folder and number."""
    if len(files) > _MOST_FILES:
        return f"{store.location}/{os.path.commonpath(files)} ({len(files):,} files)"
    return ", ".join(f"{store.location}/{name}" for name in files) or "nothing"


def _draw(store: "Store", plan: "PredictionPlan", max_pixels: int) -> None:
    from pipeline.inference.drawing import draw_photographs, draw_videos

    folder = store.folder / "overlays"
    estimates, joint_set = store.estimates(plan.sources), plan.metadata.joint_set
    photographs = [estimate for estimate in estimates if estimate.frame is None]
    frames = [estimate for estimate in estimates if estimate.frame is not None]
    drawn = chain(
        draw_photographs(photographs, joint_set, folder, max_pixels),
        draw_videos(frames, joint_set, folder),
    )
    with ProgressBar(len(estimates), "overlays", "drawing") as progress:
        for done, _ in enumerate(drawn, start=1):
            progress.to(done)
    say(f"written: {store.location}/overlays")


if __name__ == "__main__":
    main()
