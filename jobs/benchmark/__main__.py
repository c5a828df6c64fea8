"""Measure how fast parts of the pipeline are on this machine: `python -m jobs.benchmark --help`.

Its options are read by the standard library alone, since `step` must run on a
machine that has no more than torch, NumPy and OpenCV.
"""

import json
import os
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.io.console import clear_errors, duration, say


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    arguments = _parser().parse_args(argv)
    with clear_errors():
        arguments.run(arguments)


def benchmark_loader(arguments: Namespace) -> None:
    """Measure, print the tables and write the JSON. Raises ValueError about the photographs."""
    from jobs.benchmark.loader.measure import LoaderBenchmark, measure_loader
    from jobs.benchmark.report import loader_report
    from jobs.benchmark.timing import in_fresh_process

    cores = len(os.sched_getaffinity(0))
    settings = LoaderBenchmark(
        photographs=arguments.photographs,
        rounds=arguments.rounds,
        workers=tuple(arguments.threads or range(1, cores + 1)),
    )
    with TemporaryDirectory() as folder:
        result = in_fresh_process(measure_loader, settings, Path(folder))
    _tell(result, loader_report(result), arguments.json)


def benchmark_step(arguments: Namespace) -> None:
    """Measure, print the tables and write the JSON. Raises ValueError about the device or network."""
    from jobs.benchmark.step.measure import StepBenchmark, found_device, measure_step
    from jobs.benchmark.step.report import step_report
    from jobs.benchmark.timing import in_fresh_process

    on_gpu = found_device(arguments.device).type == "cuda"
    settings = StepBenchmark(
        device=arguments.device,
        stacks=tuple(arguments.stacks or ((1, 2, 8) if on_gpu else (1, 2))),
        batches=tuple(arguments.batch),
        input_px=arguments.input_px,
        precisions=tuple(arguments.precision),
        # On CPU it was measured to gain nothing and to take a minute or more.
        compile=on_gpu if arguments.compile is None else arguments.compile,
        rounds=arguments.rounds,
        memory_stacks=tuple(arguments.memory_stacks),
        curve_steps=arguments.curve_steps,
    )
    result = in_fresh_process(measure_step, settings)
    _tell(result, step_report(result), arguments.json)


def benchmark_ray(arguments: Namespace) -> None:
    """Measure, print the tables and write the JSON."""
    from jobs.benchmark.overhead.measure import RayBenchmark, measure_ray
    from jobs.benchmark.overhead.report import ray_report

    settings = RayBenchmark(rounds=arguments.rounds)
    with TemporaryDirectory() as folder:
        result = measure_ray(settings, Path(folder))
    _tell(result, ray_report(result), arguments.json)


def benchmark_predict(arguments: Namespace) -> None:
    """Measure, print the tables and write the JSON. Raises ValueError about the network or batch."""
    from jobs.benchmark.predict.measure import PredictBenchmark, measure_predict
    from jobs.benchmark.predict.report import predict_report

    settings = PredictBenchmark(
        stacks=tuple(arguments.stacks),
        batches=tuple(arguments.batch),
        features=arguments.features,
        input_px=arguments.input_px,
        rounds=arguments.rounds,
        memory_batch=arguments.memory_batch,
    )
    result = measure_predict(settings)
    _tell(result, predict_report(result), arguments.json)


def benchmark_scaling(arguments: Namespace) -> None:
    """Measure, predict, print the tables and write the JSON. Raises ValueError about the workers."""
    from jobs.benchmark.scaling.measure import (
        ScalingBenchmark,
        measure_scaling,
        places,
        usual_workers,
    )
    from jobs.benchmark.scaling.report import scaling_report

    settings = ScalingBenchmark(
        workers=tuple(arguments.workers or usual_workers(places())),
        rounds=arguments.rounds,
        gpu_images_per_s=tuple(arguments.gpu_images_per_s or ()),
    )
    with TemporaryDirectory() as folder:
        result = measure_scaling(settings, Path(folder))
    _tell(result, scaling_report(result), arguments.json)


def _tell(result: Mapping[str, Any], report: str, path: Path | None) -> None:
    say(f"measured in {duration(result['seconds'])}\n\n{report}")
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")
        say(f"written: {path}")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="jobs.benchmark",
        description="Measure how fast parts of the pipeline are on this machine. Needs no cluster; ray and scaling start their own.",
    )
    parts = parser.add_subparsers(
        title="what", metavar="{loader,step,predict,ray,scaling}", required=True
    )
    _add_loader(parts)
    _add_step(parts)
    _add_predict(parts)
    _add_ray(parts)
    _add_scaling(parts)
    return parser


def _add_loader(parts: Any) -> None:
    text = "The data path: samples/s beside decoding alone, reading alone and the plain route; crops; memory."
    loader = parts.add_parser("loader", help=text, description=text)
    loader.set_defaults(run=benchmark_loader)
    loader.add_argument(
        "--photographs",
        type=Path,
        metavar="DIR",
        help="folder with JPEG photographs of 1280x720 or 1920x1080 pixels; none: they are rendered",
    )
    loader.add_argument(
        "--threads",
        type=int,
        nargs="+",
        help="numbers of decode threads, and of processes, to measure end to end; none: 1 to this machine's cores",
    )
    _add_common(loader, rounds=7)


def _add_step(parts: Any) -> None:
    text = "The training step: images/s, FLOP/s, memory and where time goes, beside plain fp32. Needs torch, NumPy and OpenCV alone."
    step = parts.add_parser("step", help=text, description=text)
    step.set_defaults(run=benchmark_step)
    step.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    step.add_argument(
        "--stacks", type=int, nargs="+", help="networks to time; none: 1 2, on a GPU 1 2 8"
    )
    step.add_argument("--batch", type=int, nargs="+", default=[4], help="images a step (4)")
    step.add_argument("--input-px", type=int, default=256, help="side of the input (256)")
    step.add_argument(
        "--precision",
        choices=("bf16", "fp16"),
        nargs="+",
        default=[],
        help="formats beside fp32; none: what optim.precision=auto takes on the device",
    )
    step.add_argument(
        "--compile",
        action=BooleanOptionalAction,
        help="time torch.compile as well; none of the two: on a GPU only",
    )
    step.add_argument(
        "--memory-stacks",
        type=int,
        nargs="*",
        default=[8],
        help="networks whose peak memory is measured, at the first batch (8)",
    )
    step.add_argument(
        "--curve-steps",
        type=int,
        default=120,
        metavar="STEPS",
        help="length of each of the learning curves, at the first batch; 0: none (120)",
    )
    _add_common(step, rounds=5)


def _add_predict(parts: Any) -> None:
    text = (
        "Prediction on CPU: images/s and memory of the ways to run the network, beside plain fp32."
    )
    predict = parts.add_parser("predict", help=text, description=text)
    predict.set_defaults(run=benchmark_predict)
    predict.add_argument(
        "--stacks", type=int, nargs="+", default=[1, 2, 8], help="networks to time (1 2 8)"
    )
    predict.add_argument(
        "--batch", type=int, nargs="+", default=[1, 32], help="images at a time (1 32)"
    )
    predict.add_argument("--features", type=int, default=256, help="channels (256)")
    predict.add_argument("--input-px", type=int, default=256, help="side of the input (256)")
    predict.add_argument(
        "--memory-batch",
        type=int,
        default=32,
        metavar="IMAGES",
        help="batch at which peak memory is measured; 0: not at all (32)",
    )
    _add_common(predict, rounds=5)


def _add_ray(parts: Any) -> None:
    text = "Ray's share: the same training loop with and without Ray Train, and the way from the command to the first step."
    share = parts.add_parser("ray", help=text, description=text)
    share.set_defaults(run=benchmark_ray)
    _add_common(share, rounds=5)


def _add_scaling(parts: Any) -> None:
    text = (
        "Samples/s for one worker to as many as there are cores or GPUs, where a step's time goes, and what 8 to 512 GPUs "
        "are predicted to give by these measurements and stated assumptions."
    )
    scaling = parts.add_parser("scaling", help=text, description=text)
    scaling.set_defaults(run=benchmark_scaling)
    scaling.add_argument(
        "--workers",
        type=int,
        nargs="+",
        help="numbers of workers to measure, 1 besides; none: 1, 2, 4 and so on to this machine's GPUs, without any its cores",
    )
    scaling.add_argument(
        "--gpu-images-per-s",
        type=float,
        nargs=3,
        metavar=("STACKS_1", "STACKS_2", "STACKS_8"),
        help="images/s that one GPU trains with 1, 2 and 8 stacks, as `step` measures them; none: assumed",
    )
    _add_common(scaling, rounds=7)


def _add_common(parser: ArgumentParser, rounds: int) -> None:
    parser.add_argument(
        "--rounds",
        type=int,
        default=rounds,
        help=f"times that each route is run, in turns ({rounds})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the result")


if __name__ == "__main__":
    main()
