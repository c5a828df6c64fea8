"""Find people's joints in photographs and videos: `python -m jobs.predict --help`."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pipeline.io.console import Pace, bar, duration, say
from pipeline.settings import RaySettings
from pipeline.settings.cli import clear_errors, fail, parse

if TYPE_CHECKING:
    from pipeline.inference.batch_predictor import Options
    from pipeline.inference.plan import PredictionPlan
    from pipeline.inference.results import Failure, Found, Part
    from pipeline.inference.store import Store

_Words = tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="INPUT ...")]]
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
_INTERRUPTED = 130
# Failures that are named on the way; all of them are in predictions.json.
_MOST_NAMED = 20
_NOTES = {
    "coordinates": "pixels of the image held upright as EXIF says, the first one's centre at 0; in predictions.mat at 1",
    "confidence": "height of the heatmap at the joint, as a share of the training target's; not a probability",
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Find people's joints in photographs and videos. Given again, the command does what is missing."""

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A checkpoint's folder; a run's folder or its name, by which its best checkpoint is meant; models:/NAME@ALIAS or
    models:/NAME/VERSION; or with --tracking.uri a run of MLflow's, by name or id."""
    inputs: _Words
    """Images, videos, folders of them, globs."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("out/predictions")
    """Folder for all that is found; in a submitted job below ~/hourglass-ray."""
    boxes: _File = None
    """Where people are: COCO's annotations or a detector's results in its form (.json), or a table (.csv) of image and either x, y,
    width, height or center_x, center_y, scale, with frame for videos. None: each picture holds one person who fills it."""
    formats: tuple[Literal["json", "csv", "coco", "mat"], ...] = ("json",)
    """Files to write: predictions.json, predictions.csv, coco_results.json, predictions.mat (as MPII's)."""
    overlays: bool = False
    """Draw skeletons, names of joints and confidences over the pictures, into DIR/overlays."""
    heatmaps: bool = False
    """Keep everybody's heatmaps, in DIR/heatmaps."""
    weights: Literal["auto", "raw", "ema"] = "auto"
    """Which of the checkpoint's weights: raw, as trained; ema, their moving average; auto: the average where there is one."""
    exact: bool = False
    """Compute in fp32, as evaluation does, also on CPUs that are faster in bf16."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs when no cluster is asked for; auto: a GPU where there is one."""
    threads: int = 2
    """Threads that read pictures, and on CPU those that compute, when no cluster is asked for."""
    workers: Annotated[int, tyro.conf.arg(name="ray.workers")] = 0
    """Workers of a Ray cluster that share the pictures, which every node has to see; 0: this process, without a cluster."""
    cpus_per_worker: Annotated[float, tyro.conf.arg(name="ray.cpus-per-worker")] = 1.0
    """CPU cores that a worker takes; also its threads."""
    gpus_per_worker: Annotated[float, tyro.conf.arg(name="ray.gpus-per-worker")] = 0.0
    """GPUs that a worker takes; 0: the CPU computes."""
    address: Annotated[str, tyro.conf.arg(name="ray.address")] = ""
    """Cluster to join; empty: RAY_ADDRESS or the submitted job's cluster, else one is started here."""
    storage: Annotated[str, tyro.conf.arg(name="ray.storage", metavar="DIR")] = ""
    """Folder in which the name of a run is looked up; empty: ./runs."""
    uri: Annotated[str, tyro.conf.arg(name="tracking.uri", metavar="URI")] = ""
    """MLflow tracking URI, for models:/... and for runs that are not here; empty: for models the database in this folder."""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors(), tempfile.TemporaryDirectory() as folder:
        try:
            failures = predict(arguments, Path(folder))
        except KeyboardInterrupt:
            fail("interrupted; the same command goes on", _INTERRUPTED)
        if failures:
            fail(f"{len(failures)} of the files could not be read; the rest is done")


def predict(arguments: Arguments, place: Path) -> "list[Failure]":
    """Find everybody and write what was asked for; return what could not be read. `place` is a folder for a while. Raises ValueError."""
    from pipeline.inference.plan import plan_prediction
    from pipeline.inference.store import Store
    from pipeline.run.plan import storage_folder, working_root
    from pipeline.tracking.lookup import find_checkpoint

    settings = _ray_settings(arguments)
    storage = storage_folder(arguments.storage)
    plan = plan_prediction(
        find_checkpoint(arguments.model, storage, arguments.uri, place),
        arguments.inputs,
        arguments.boxes,
        arguments.weights,
        heatmaps=arguments.heatmaps,
        exact=arguments.exact,
    )
    # A submitted job's own folder is removed when it has ended.
    is_submitted = working_root() != Path.cwd()
    store = Store(working_root() / arguments.out if is_submitted else arguments.out)
    store.open(plan.job)
    parts = store.missing(plan.sources, plan.frames)
    _say_beginning(arguments, plan, store)
    found = _on_cluster if arguments.workers else _here
    _follow(found(parts, arguments, plan, settings), parts, store, plan.failures)
    _write(arguments, plan, store)
    for failure in plan.failures[:_MOST_NAMED]:
        say(f"not read: {failure.file}: {failure.why}")
    if len(plan.failures) > _MOST_NAMED:
        say(f"and {len(plan.failures) - _MOST_NAMED} more")
    return plan.failures


def _ray_settings(arguments: Arguments) -> RaySettings:
    """The cluster that is asked for. Raises ValueError naming the option that can't be so."""
    if arguments.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {arguments.threads}")
    if arguments.workers < 0:
        raise ValueError(f"ray.workers must be at least 0, got {arguments.workers}")
    if not arguments.formats:
        raise ValueError("--formats must name at least one of json, csv, coco, mat")
    return RaySettings(
        address=arguments.address,
        workers=max(arguments.workers, 1),
        cpus_per_worker=arguments.cpus_per_worker,
        gpus_per_worker=arguments.gpus_per_worker,
    )


def _say_beginning(arguments: Arguments, plan: "PredictionPlan", store: "Store") -> None:
    if plan.others:
        say(f"{plan.others:,} files that are neither images nor videos are passed over")
    evaluation = plan.metadata.settings.evaluation
    flip = "with" if evaluation.flip_test else "without"
    say(
        f"{plan.checkpoint.name}: {plan.metadata.joint_set.name}, {len(plan.metadata.joint_set.joints)} joints, "
        f"{flip} flip test, decoding {evaluation.decoding}"
    )
    videos, frames = len(plan.frames), sum(plan.frames.values())
    photographs = sum(not source.is_video for source in plan.sources)
    said = f"{photographs:,} images" + (f", {frames:,} frames of {videos} videos" if videos else "")
    done = len(store.estimates(plan.sources))
    say(said + (f"; {done:,} of them are there from before" if done else ""))
    if plan.boxes is None:
        say("no --boxes: each picture is taken to hold one person, who fills it")
    elif plan.boxes.unknown:
        say(f"{plan.boxes.unknown:,} pictures of {arguments.boxes} are not among the inputs")
    for reason, count in (plan.boxes.boxes.left_out if plan.boxes else {}).items():
        say(f"{count:,} entries of {arguments.boxes} are left out: {reason}")


def _options(
    arguments: Arguments, plan: "PredictionPlan", threads: int, is_cuda: bool
) -> "Options":
    from pipeline.inference.batch_predictor import Options

    return Options(
        root=Path.cwd(),
        weights=arguments.weights,
        exact=arguments.exact,
        boxes=plan.boxes,
        heatmaps=arguments.heatmaps,
        threads=threads,
        is_cuda=is_cuda,
    )


def _here(
    parts: "Sequence[Part]", arguments: Arguments, plan: "PredictionPlan", settings: RaySettings
) -> "Iterator[Found]":
    import torch

    from pipeline.inference.batch_predictor import Estimator

    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no GPU that torch can use")
    is_cuda = arguments.device != "cpu" and torch.cuda.is_available()
    torch.set_num_threads(arguments.threads)
    if parts:
        estimator = Estimator(
            plan.checkpoint, _options(arguments, plan, arguments.threads, is_cuda)
        )
        yield from map(estimator.estimate, parts)


def _on_cluster(
    parts: "Sequence[Part]", arguments: Arguments, plan: "PredictionPlan", settings: RaySettings
) -> "Iterator[Found]":
    from pipeline.cluster.start import check_capacity, cluster
    from pipeline.inference.ray_data import estimate_on_cluster

    if not parts:
        return
    options = _options(
        arguments, plan, max(1, int(settings.cpus_per_worker)), settings.gpus_per_worker > 0
    )
    with cluster(settings.address):
        check_capacity(settings)
        yield from estimate_on_cluster(parts, plan.checkpoint, options, settings)


def _follow(
    results: "Iterator[Found]",
    parts: "Sequence[Part]",
    store: "Store",
    failures: "list[Failure]",
) -> None:
    """Keep each result as it comes, and show how far it is."""
    total, done, people, pace = sum(part.pictures() for part in parts), 0, 0, Pace(2.0)
    for found in results:
        store.keep(found)
        failures += found.failures
        done += len(found.estimates) + len(found.failures)
        people += sum(len(estimate.people) for estimate in found.estimates)
        if pace.is_due():
            left = duration(pace.left_s(done, total))
            say(f"{bar(done, total)} pictures, {people:,} people  left {left}")
    if total:
        say(f"{people:,} people in {done:,} pictures, in {duration(pace.elapsed_s())}")


def _write(arguments: Arguments, plan: "PredictionPlan", store: "Store") -> None:
    """Write the files of all that is known by now."""
    from pipeline.inference.formats import Results, written

    estimates = store.estimates(plan.sources)
    results = Results(
        joint_set=plan.metadata.joint_set,
        model={
            "asked": arguments.model,
            "checkpoint": plan.checkpoint.name,
            **plan.job,
        },
        estimates=estimates,
        failures=plan.failures,
        boxes=plan.boxes,
        notes=_NOTES,
    )
    for kind in dict.fromkeys(arguments.formats):
        say(f"written: {store.write(*written(kind, results))}")
    if arguments.heatmaps:
        say(f"written: {store.folder}/heatmaps")
    if arguments.overlays:
        _draw(store.folder / "overlays", plan, store)


def _draw(folder: Path, plan: "PredictionPlan", store: "Store") -> None:
    from pipeline.inference.drawing import draw_photographs, draw_videos

    estimates, joint_set, pace = store.estimates(plan.sources), plan.metadata.joint_set, Pace(2.0)
    photographs = [estimate for estimate in estimates if estimate.frame is None]
    frames = [estimate for estimate in estimates if estimate.frame is not None]
    done = 0
    for drawn in (
        draw_photographs(photographs, joint_set, folder),
        draw_videos(frames, joint_set, folder),
    ):
        for _ in drawn:
            done += 1
            if pace.is_due():
                left = duration(pace.left_s(done, len(estimates)))
                say(f"{bar(done, len(estimates))} overlays  left {left}")
    say(f"written: {folder}")


if __name__ == "__main__":
    main()
