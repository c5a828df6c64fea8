"""Exported files: written from a graph, and run as a user of the file would run them."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.export import ExportedProgram

from pipeline.inference.export.description import as_strings
from pipeline.inference.export.graph import INPUT, Graph
from pipeline.pose.shapes import UInt8

Format = Literal["onnx", "torch-export"]
# Runs an exported file: images to the graph's outputs, in order.
Runner = Callable[[UInt8[np.ndarray, "batch input_px input_px 3"]], tuple[np.ndarray, ...]]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2"}
# A .pt2's file of metadata.
DESCRIPTION_NAME = "description.json"
_ONNX_NEEDS = ("onnx", "onnxscript", "onnxruntime")


class ExportError(Exception):
    """The reason why a network can't be exported."""


def check_installed(to: Format) -> None:
    """Raise ValueError if libraries for the format are missing."""
    missing = [name for name in _ONNX_NEEDS if importlib.util.find_spec(name) is None]
    if to == "onnx" and missing:
        raise ValueError(
            f"--to onnx needs {', '.join(missing)}, not installed here: "
            "pip install 'hourglass-ray[export]', from a checkout pip install -e '.[export]'"
        )


def write(
    graph: Graph, to: Format, path: Path, input_px: int, description: Mapping[str, Any]
) -> None:
    """Write the graph, for batches of any size. Raises ExportError with the reason, or OSError."""
    program = _program(graph, input_px)
    if to == "onnx":
        _write_onnx(program, graph, path, description)
    else:
        torch.export.save(
            program, path, extra_files={DESCRIPTION_NAME: json.dumps(description, indent=1)}
        )


def load(to: Format, path: Path) -> Runner:
    """Load an exported file on the CPU, with as many threads as torch has."""
    return _onnx_runner(path) if to == "onnx" else _program_runner(path)


def _program(graph: Graph, input_px: int) -> ExportedProgram:
    for parameter in graph.parameters():
        # torch.export.save stores other layouts twice, and warns.
        parameter.data = parameter.data.contiguous()
    # Two: torch would fix the size of a batch of one.
    images = torch.zeros(2, input_px, input_px, 3, dtype=torch.uint8)
    with _refusals_explained("torch.export"), torch.no_grad():
        program = torch.export.export(
            graph.eval(), (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    for node in program.graph.nodes:
        # It has the paths of this machine's code.
        node.meta.pop("stack_trace", None)
    return program


def _write_onnx(
    program: ExportedProgram, graph: Graph, path: Path, description: Mapping[str, Any]
) -> None:
    import onnx

    with _refusals_explained("torch.onnx"):
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=list(graph.chosen.outputs),
        )
    assert exported is not None
    model = exported.model_proto
    _check_complete(model, graph)
    for node in model.graph.node:
        # They serve only to debug the exporter.
        node.ClearField("metadata_props")
    onnx.helper.set_model_props(model, as_strings(description))
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


def _check_complete(model: Any, graph: Graph) -> None:
    """Raise ExportError for missing outputs, a fixed batch, or operators that are not ONNX's."""
    foreign = sorted({f"{n.domain}::{n.op_type}" for n in model.graph.node if n.domain})
    if foreign:
        raise ExportError(f"ONNX has no operators {', '.join(foreign)}")
    outputs = [value.name for value in model.graph.output]
    if outputs != list(graph.chosen.outputs):
        raise ExportError(f"the model has outputs {outputs}, expected {list(graph.chosen.outputs)}")
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(f"the batch of {value.name} is fixed, expected one of any size")


@contextmanager
def _refusals_explained(by: str) -> Iterator[None]:
    """Raise an exporter's errors, of any type, as ExportError, and silence its warnings."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)  # it warns that torchvision is not installed
    try:
        with warnings.catch_warnings():
            # torch's use of its own deprecated API.
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    except Exception as error:
        raise ExportError(f"{by}: {_reason(error)}") from error
    finally:
        log.setLevel(before)


def _reason(error: BaseException) -> str:
    """Return the message of the original error, which exporters wrap in reports."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _onnx_runner(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(session.run(None, {INPUT: images}))


def _program_runner(path: Path) -> Runner:
    module = torch.export.load(path).module()

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            return tuple(output.numpy() for output in module(torch.from_numpy(images)))

    return run
