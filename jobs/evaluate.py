"""Measure a checkpoint on validation shards: `python -m jobs.evaluate --help`."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jobs.options import (
    Device,
    Model,
    OutFile,
    Stacks,
    Storage,
    Threads,
    TrackingUri,
    Weights,
    torch_device,
    write_json,
)
from pipeline.io.console import say, say_text
from pipeline.io.progress import ProgressBar
from pipeline.io.redaction import redacted
from pipeline.settings import Decoding
from pipeline.settings.cli import clear_errors, parse
from pipeline.settings.config_file import packed_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.data.loader import SampleLoader
    from pipeline.evaluation.evaluate import Evaluation, Evaluator
    from pipeline.evaluation.metrics import Scores
    from pipeline.evaluation.per_person import PersonResults
    from pipeline.pose.joint_sets import JointSet
    from pipeline.run.metadata import CheckpointMetadata
    from pipeline.settings import Settings

_Folder = Annotated[Path | None, tyro.conf.arg(metavar="DIR")]
_File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Evaluate a checkpoint: table by joint, figures and JSON. Needs no cluster."""

    model: Model = ""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="MODEL")] = ""
    """MODEL as an option."""
    stacks: Stacks = 0
    weights: Weights = "auto"
    packed: Annotated[str, tyro.conf.arg(name="data", metavar="DIR")] = ""
    """Folder that jobs.pack has written, for its validation shards."""
    val: Annotated[str, tyro.conf.arg(name="data.val")] = ""
    """Validation shards: a glob or comma-separated globs."""
    boxes: _File = None
    """In place of shards, a detector's boxes with scores, such as COCO's detections: average
    precision (OKS) over all people of --truth on the photographs in --images."""
    truth: _File = None
    """COCO annotation file, for --boxes."""
    images: _Folder = None
    """Folder of the annotated photographs, for --boxes."""
    train: Annotated[str, tyro.conf.arg(name="data.train")] = ""
    """Training shards; with them their median pose is measured as a baseline."""
    flip_test: Annotated[
        bool, tyro.conf.arg(name="evaluation.flip-test"), tyro.conf.FlagConversionOff
    ] = True
    """Average the heatmaps with those of the mirrored image."""
    decoding: Annotated[Decoding | None, tyro.conf.arg(name="evaluation.decoding")] = None
    """Decoding of heatmaps to joints; None: as in the checkpoint's settings."""
    every_stack: bool = False
    """Measure the heatmaps of every stack, not only of the last."""
    device: Device = "auto"
    threads: Threads = 2
    figures: _Folder = None
    """Folder for overlay.png, joints.png, thresholds.png, worst.png and stacks.png."""
    json: OutFile = None
    """File for the scores of every measure."""
    people: OutFile = None
    """File for the results of each person, such as CHECKPOINT/people.npz, for jobs.compare."""
    storage: Storage = ""
    uri: TrackingUri = ""


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = parse(Arguments, None, argv)
    with clear_errors(), tempfile.TemporaryDirectory() as folder:
        evaluate_checkpoint(arguments, Path(folder))


def _with_shards(arguments: Arguments) -> Arguments:
    """Return the arguments with data.val of a packed folder, unless it is given."""
    if arguments.val or not arguments.packed:
        return arguments
    return replace(arguments, val=packed_folder(arguments.packed)["data.val"])


def evaluate_checkpoint(arguments: Arguments, place: Path) -> "Scores | None":
    """Measure, print, and write the files.

    `place` is a folder for a downloaded checkpoint. Returns the scores on shards; None in a
    detector's boxes. Raises ValueError.
    """
    from pipeline.data.loader import shard_loader
    from pipeline.data.measurable import check_any_measurable
    from pipeline.evaluation.evaluate import Evaluator
    from pipeline.evaluation.metrics import stack_table, table
    from pipeline.evaluation.oks import precision_table
    from pipeline.run.checkpoint import find_weights, load_network
    from pipeline.run.cut import cut_checkpoint
    from pipeline.run.storage import shown
    from pipeline.tracking.lookup import find_checkpoint

    arguments = _with_shards(arguments)
    _check_data(arguments)
    device = torch_device(arguments.device, arguments.threads)
    _check_people_file(arguments.people)
    model = _model(arguments)
    found = find_checkpoint(model, arguments.storage, arguments.uri, place)
    checkpoint = cut_checkpoint(found, arguments.stacks, place)
    network, metadata = load_network(checkpoint, device, arguments.weights)
    weights = find_weights(checkpoint, arguments.weights)
    is_local = not found.is_relative_to(place)
    measured = shown(found) if is_local else f"{model} (epoch {metadata.progress.epochs})"
    if checkpoint != found:
        measured += f", cut to {metadata.settings.model.stacks} stacks"
    say(f"checkpoint: {measured}")
    if weights == "ema":
        say("weights: their moving average (ema)")
    if arguments.boxes is not None:
        _evaluate_boxes(arguments, checkpoint, metadata, measured)
        return None
    max_pixels = metadata.settings.data.max_pixels
    fitting = metadata.joint_set, metadata.settings.model.input_px, max_pixels
    loader = shard_loader("data.val", arguments.val, *fitting)
    check_any_measurable(f"data.val={redacted(arguments.val)!r}", loader.samples, loader.joint_set)
    settings = _settings(metadata, arguments)
    evaluator = Evaluator(network=network, loader=loader, settings=settings, device=device)
    measured_stacks, joint_set = _measure(evaluator, arguments), loader.joint_set
    evaluation, people = measured_stacks[-1]
    stacks = [_scores(*found, joint_set) for found in measured_stacks]
    primary = _primary(stacks[-1], evaluator)
    precision = primary.precision
    results = {"network": stacks[-1]}
    if arguments.train:
        training = shard_loader("data.train", arguments.train, *fitting)
        results["constant pose"] = _scores(*_constant_pose(training, loader), joint_set)
    for name, scores in results.items():
        for score in scores.values():
            say_text(f"\n{name}\n{table(score)}")
    by_stack = stacks if arguments.every_stack else []
    if by_stack:
        for key in by_stack[-1]:
            say_text(f"\n{stack_table([scores[key] for scores in by_stack])}")
    if precision:
        title = "network, by OKS, each person in the annotated frame"
        say_text(f"\n{title}\n{precision_table(precision)}")
    described: dict[str, Any] = {"checkpoint": measured, "weights": weights}
    if precision:
        described["oks"] = precision.as_dict()
    _write(described, results, by_stack, evaluation, settings, arguments)
    if arguments.people is not None:
        arguments.people.write_bytes(people.to_bytes())
        say(f"written: {arguments.people}")
    if arguments.figures is not None:
        _draw(evaluator, evaluation, people, primary, arguments.figures)
    return primary


def _check_data(arguments: Arguments) -> None:
    """Raise ValueError unless there are shards, or boxes with photographs and their truth."""
    given = {name: getattr(arguments, name) for name in ("boxes", "truth", "images")}
    if arguments.val and any(given.values()):
        raise ValueError("--data.val: give shards, or --boxes with --truth and --images, not both")
    absent = [f"--{name}" for name, value in given.items() if value is None]
    if not arguments.val and absent:
        raise ValueError(
            f"{' and '.join(absent)} missing, expected all of --boxes, --truth and --images"
            if len(absent) < len(given)
            else "--data or --data.val is required: a packed folder or validation shards; or "
            "--boxes with --truth and --images"
        )
    if arguments.val:
        return
    for name in ("train", "every_stack", "figures", "people"):
        if getattr(arguments, name):
            option = "data.train" if name == "train" else name.replace("_", "-")
            raise ValueError(f"--{option}: needs the shards of --data.val, not --boxes")
    if not arguments.flip_test or arguments.decoding is not None:
        raise ValueError("--boxes: flip test and decoding are those of the checkpoint's settings")


def _evaluate_boxes(
    arguments: Arguments, checkpoint: Path, metadata: "CheckpointMetadata", measured: str
) -> None:
    """Predict in a detector's boxes, and print and write COCO's ten numbers."""
    import numpy as np

    from pipeline.data.formats.coco_truth import read_coco_truth
    from pipeline.evaluation.oks import average_precision, match, precision_table
    from pipeline.inference.batch_predictor import Options
    from pipeline.inference.detections import match_boxes, predict_boxes

    assert arguments.boxes is not None, "checked before"
    assert arguments.truth is not None, "checked before"
    assert arguments.images is not None, "checked before"
    joint_set = metadata.joint_set
    truth = read_coco_truth(arguments.truth, joint_set)
    detected = match_boxes(arguments.boxes, truth, arguments.images)
    for note in (*truth.notes, *detected.notes):
        say(note)
    options = Options(
        root=Path.cwd(),
        weights=arguments.weights,
        exact=True,
        threads=arguments.threads,
        is_cuda=torch_device(arguments.device, arguments.threads).type == "cuda",
    )
    people = predict_boxes(checkpoint, detected, options, len(joint_set.joints))
    matches = match(truth.people, people, np.array(truth.sigmas))
    found = average_precision(matches)
    say_text(
        f"\nnetwork, by OKS, {len(people.scores):,} boxes of {arguments.boxes.name}, "
        f"{int(matches.people[0].sum()):,} people\n{precision_table(found)}"
    )
    content = {"checkpoint": measured, "boxes": str(arguments.boxes), "oks": found.as_dict()}
    write_json(arguments.json, content)


def _model(arguments: Arguments) -> str:
    """Return what was given by either way. Raises ValueError if nothing was, or both."""
    given = [word for word in (arguments.model, arguments.checkpoint) if word]
    if len(given) != 1:
        raise ValueError(
            "MODEL must be given once: a checkpoint's folder, a run's folder or name, or "
            f"models:/NAME@ALIAS, got {given or 'none'}"
        )
    return given[0]


def _check_people_file(people: Path | None) -> None:
    """Raise ValueError if `people` is a checkpoint's own file, whose checksum would not match."""
    from pipeline.run.metadata import METADATA_NAME, read_checksums

    if people is None or not (people.parent / METADATA_NAME).exists():
        return
    if people.name in read_checksums(people.parent):
        raise ValueError(f"--people {people}: belongs to the checkpoint there; give another file")


def _settings(metadata: "CheckpointMetadata", arguments: Arguments) -> "Settings":
    """Return the checkpoint's settings with the options of evaluation."""
    changes: dict[str, Any] = {"evaluation.flip_test": arguments.flip_test}
    if arguments.decoding is not None:
        changes["evaluation.decoding"] = arguments.decoding
    return metadata.settings.replaced(changes)


def _scores(
    evaluation: "Evaluation", people: "PersonResults", joint_set: "JointSet"
) -> "dict[str, Scores]":
    """Return percentages by measure, with the average precision by OKS where it is defined."""
    from pipeline.evaluation.oks import precision_of

    return evaluation.scores(joint_set, precision_of(people, joint_set))


def _primary(scores: "dict[str, Scores]", evaluator: "Evaluator") -> "Scores":
    """Return the primary measure's scores, or those of the first that these people have."""
    measure = evaluator.loader.joint_set.measure(evaluator.settings.evaluation.measure)
    return scores.get(measure.key) or next(iter(scores.values()))


def _measure(
    evaluator: "Evaluator", arguments: Arguments
) -> "list[tuple[Evaluation, PersonResults]]":
    """Evaluate every stack, first to last, or the last one."""
    from pipeline.data.loader import stream_validation
    from pipeline.data.sampler import validation_batches
    from pipeline.evaluation.evaluate import Predictions, evaluate_stacks

    loader, settings = evaluator.loader, evaluator.settings
    people = len(loader.samples)
    chosen = validation_batches(people, settings.evaluation.batch_size, rank=0, workers=1)
    batches = stream_validation(loader, chosen, arguments.threads)

    def predicted() -> "Iterator[list[Predictions]]":
        done = 0
        for found in evaluator.predict_stacks(batches, every=arguments.every_stack):
            yield found
            done += len(found[-1].positions)
            progress.to(done)

    stacks = settings.model.stacks if arguments.every_stack else 1
    with ProgressBar(people, "people", "evaluating") as progress:
        measured = evaluate_stacks(predicted(), loader, stacks)
    return [(evaluation, results.by_key()) for evaluation, results in measured]


def _constant_pose(
    training: "SampleLoader", loader: "SampleLoader"
) -> "tuple[Evaluation, PersonResults]":
    from pipeline.evaluation.baseline import constant_pose, predict_constant_pose
    from pipeline.evaluation.evaluate import evaluate_people

    pose = constant_pose(training.samples, len(loader.joint_set.joints))
    return evaluate_people([predict_constant_pose(pose, loader.samples)], loader)


def _write(
    described: dict[str, Any],
    results: dict[str, dict[str, "Scores"]],
    by_stack: list[dict[str, "Scores"]],
    evaluation: "Evaluation",
    settings: "Settings",
    arguments: Arguments,
) -> None:
    content = described | {
        "data.val": redacted(arguments.val),
        "people": evaluation.people,
        "flip_test": settings.evaluation.flip_test,
        "decoding": settings.evaluation.decoding,
        "loss": evaluation.loss_sum / evaluation.people,
    }
    for name, scores in results.items():
        content[name.replace(" ", "_")] = {key: s.as_dict() for key, s in scores.items()}
    if by_stack:
        content["stacks"] = [{key: s.as_dict() for key, s in scores.items()} for scores in by_stack]
    write_json(arguments.json, content)


def _draw(
    evaluator: "Evaluator",
    evaluation: "Evaluation",
    people: "PersonResults",
    scores: "Scores",
    folder: Path,
) -> None:
    from pipeline.evaluation.charts import joint_bars, threshold_curve
    from pipeline.evaluation.overlays import draw_close_ups, draw_overlays

    joint_set, measure = evaluator.loader.joint_set, scores.measure
    title = f"{joint_set.name} validation, {measure.headline} {scores.headline:.1f}"
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "overlay.png": draw_overlays(evaluator, title),
        "joints.png": joint_bars(scores),
        "thresholds.png": threshold_curve(evaluation.counts[measure.key], scores),
    } | draw_close_ups(evaluator, people, measure)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=100)
    say(f"written: {folder}/{', '.join(figures)}")


if __name__ == "__main__":
    main()
