"""Exported networks: the same joints elsewhere, a described file, and refusals with reasons."""

import io
import json
import zipfile
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from factories import pack_samples, photograph

import jobs.export
from pipeline.data.loader import SampleLoader
from pipeline.data.shards.crop import cut_crop
from pipeline.data.shards.reader import ShardReader
from pipeline.data.shards.sample import Sample
from pipeline.data.synthetic.scene import render_scene
from pipeline.inference.export.check import MOST_PX, compare
from pipeline.inference.export.graph import Graph, GraphSettings
from pipeline.inference.export.samples import of_photographs, rendered
from pipeline.inference.export.write import ExportError, load
from pipeline.inference.predictor import Predictor, View
from pipeline.model.build import build_network
from pipeline.model.cost import network_cost
from pipeline.model.hourglass import Residual
from pipeline.pose.geometry import heatmap_from_input
from pipeline.pose.joint_sets import MPII
from pipeline.run.checkpoint import load_network, take_snapshot, write_checkpoint
from pipeline.run.metadata import CheckpointMetadata, Progress
from pipeline.settings import Settings
from pipeline.settings.packing import CropSettings
from pipeline.training.step import build_optimizer, train_step

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
STEPS = 60


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> list[Path]:
    """A shard of eight rendered people."""
    made = []
    for index in range(8):
        image, (person, *_) = render_scene(0, index)
        made.append(Sample(person=person, crop=cut_crop(image, person, CropSettings(person_px=64))))
    return pack_samples(tmp_path_factory.mktemp("people"), [made], split="val")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, people) -> Path:
    """Folder of the runs `mse` and `cross-entropy`: small networks that overfit eight people."""
    folder = tmp_path_factory.mktemp("runs")
    for loss in ("mse", "cross-entropy"):
        fitted(folder / loss / "epoch_0003", people, loss)
    return folder


def fitted(folder: Path, people: list[Path], loss: str) -> None:
    settings = Settings.from_flat(
        {
            "model.stacks": 2,
            "model.features": 16,
            "model.order": 1,
            "model.joints": 16,
            "model.input_px": 64,
            "optim.optimizer": "adamw",
            "optim.learning_rate": 1e-2,
            "optim.loss": loss,
            "optim.target_peak": 10.0,
            "optim.sigma_px": 1.25,
        }
    )
    loader = SampleLoader(ShardReader([str(path) for path in people]), MPII, 64)
    network = build_network(settings.model, 0, CPU)
    optimizer = build_optimizer(network, settings.optim)
    batch = loader.batch(np.arange(8))
    for _ in range(STEPS):
        train_step(network.train(), optimizer, batch, settings.optim, CPU, torch.float32)
    folder.mkdir(parents=True)
    metadata = CheckpointMetadata(
        settings=settings,
        joint_set=MPII,
        progress=Progress(epochs=3),
        metrics={"pckh_0.5": 61.5, "loss": 0.25},
    )
    write_checkpoint(folder, take_snapshot(network, metadata))


def export(runs: Path, out: Path, *options: str, run: str = "mse") -> None:
    to = "onnx" if out.suffix == ".onnx" else "torch-export"
    storage = ("--ray.storage", str(runs))
    jobs.export.main([run, "--to", to, "--out", str(out), *storage, *options])


def fails(capsys, *arguments: str) -> tuple[int, str]:
    """Return exit status and error of a command that must fail."""
    with pytest.raises(SystemExit) as end:
        jobs.export.main(list(arguments))
    return int(end.value.code), capsys.readouterr().err


def run_onnx(path: Path, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})


def as_predicted(checkpoint: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return joints in input pixels and confidences as evaluation computes them."""
    from_heatmap = np.linalg.inv(heatmap_from_input())
    views = [View(image=image, to_photograph=from_heatmap) for image in images]
    poses = list(Predictor(checkpoint, CPU, exact=True).predict(views))
    return np.stack([p.joints for p in poses]), np.stack([p.confidence for p in poses])


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported file, what the command printed, and whether it changed the checkpoint."""

    path: Path
    printed: str
    left_alone: bool


def exported(runs: Path, path: Path, *options: str) -> Exported:
    """Export the network of the run `mse`."""

    def content() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()}

    before, printed = content(), io.StringIO()
    with redirect_stdout(printed):
        export(runs, path, *options)
    return Exported(path=path, printed=printed.getvalue(), left_alone=content() == before)


@pytest.fixture(scope="module")
def joints_onnx(tmp_path_factory, runs) -> Path:
    """The network of the run `mse`, exported with decoding and flip test."""
    path = tmp_path_factory.mktemp("onnx") / "joints.onnx"
    return exported(runs, path, "--decode", "--flip-test").path


@pytest.fixture(scope="module")
def program(tmp_path_factory, runs) -> Exported:
    """The network of the run `mse`, exported as a program of torch without decoding."""
    return exported(runs, tmp_path_factory.mktemp("program") / "network.pt2")


# The same joints


def test_onnx_runtime_finds_the_joints_of_evaluation_in_batches_of_any_size(joints_onnx, runs):
    images = rendered(64).images
    expected, confidence = as_predicted(runs / "mse" / "epoch_0003", images)
    for count in (1, 3, 16):
        joints, heights = run_onnx(joints_onnx, images[:count])
        assert joints == pytest.approx(expected[:count], abs=1e-3)
        assert heights == pytest.approx(confidence[:count], abs=1e-5)


def test_a_program_of_torch_finds_them_by_dark(tmp_path, runs):
    path = tmp_path / "network.pt2"
    export(runs, path, "--decode", "--evaluation.decoding", "dark")
    program = torch.export.load(path).module()
    images = rendered(64).images[:3]
    joints, heights = program(torch.from_numpy(images))
    assert joints.shape == (3, 16, 2)
    assert heights.shape == (3, 16)
    network, metadata = load_network(runs / "mse" / "epoch_0003", CPU)
    graph = Graph(
        network,
        metadata.settings,
        MPII,
        GraphSettings(decode=True, decoding="dark"),
    )
    with torch.no_grad():
        expected, _ = graph(torch.from_numpy(images))
    assert (joints - expected).abs().max() < 1e-3


def test_without_decoding_it_answers_heatmaps_of_the_last_stack(tmp_path, runs):
    path = tmp_path / "network.onnx"
    export(runs, path, run="cross-entropy")
    [heatmaps] = run_onnx(path, rendered(64).images[:2])
    assert heatmaps.shape == (2, 16, 16, 16)
    assert heatmaps.dtype == np.float32
    # Probabilities, as the loss has it.
    assert heatmaps.sum(axis=(2, 3)) == pytest.approx(np.ones((2, 16)), abs=1e-5)


def test_a_network_cut_to_its_first_stacks_is_what_is_exported(tmp_path, runs):
    path = tmp_path / "network.pt2"
    export(runs, path, "--stacks", "1")
    program, images = torch.export.load(path), rendered(64).images[:2]
    network, metadata = load_network(runs / "mse" / "epoch_0003", CPU)
    with torch.no_grad():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).stacks[0]
        [found] = program.module()(torch.from_numpy(images))
    assert found == pytest.approx(expected, abs=1e-4)
    cost = network_cost(replace(metadata.settings.model, stacks=1))
    assert sum(weight.numel() for weight in program.parameters()) == cost.parameters


def test_joints_are_in_input_pixels_and_confidence_is_a_share_of_the_peak(runs):
    network, metadata = load_network(runs / "mse" / "epoch_0003", CPU)
    graph = Graph(network, metadata.settings, MPII, GraphSettings(decoding="quarter"))
    maps = torch.zeros(1, 16, 16, 16)
    maps[0, :, 7, 3], maps[0, :, 7, 4] = 5.0, 1.0
    joints, confidence = graph.joints(maps)
    # Heatmap (3.25, 7): (3.25 + 0.5) * 4 - 0.5 and (7 + 0.5) * 4 - 0.5; half of the peak of 10.
    assert joints[0].tolist() == [[14.5, 29.5]] * 16
    assert confidence[0].tolist() == [0.5] * 16


# Metadata


def test_an_onnx_file_has_all_metadata_that_its_user_needs(joints_onnx):
    model = onnx.load(joints_onnx)
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(metadata["joint_set"]) == MPII.to_json()
    assert json.loads(metadata["mirror"]) == list(MPII.mirror)
    assert (metadata["input_px"], metadata["heatmap_px"]) == ("64", "16")
    assert json.loads(metadata["heatmap_from_input"])[0] == [0.25, 0, -0.375]
    assert json.loads(metadata["score"]) == {"PCKh@0.5": 61.5}
    assert (metadata["checkpoint"], metadata["weights"], metadata["epochs"]) == (
        "mse/epoch_0003",
        "raw",
        "3",
    )
    assert (metadata["loss"], metadata["decoding"], metadata["flip_test"]) == (
        "mse",
        "quarter",
        "true",
    )
    [images] = model.graph.input
    dims = images.type.tensor_type.shape.dim
    assert images.name == "images"
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value for dim in dims[1:]] == [64, 64, 3]
    assert [output.name for output in model.graph.output] == ["joints", "confidence"]
    assert list(json.loads(metadata["outputs"])) == ["joints", "confidence"]


def test_a_program_of_torch_has_the_same_metadata(program):
    held = {"description.json": ""}
    torch.export.load(program.path, extra_files=held)
    description = json.loads(held["description.json"])
    assert description["joint_set"] == MPII.to_json()
    assert description["input_px"] == 64
    assert description["decoding"] == "none"
    assert list(description["outputs"]) == ["heatmaps"]


def test_no_path_of_this_machine_is_in_a_file(tmp_path, joints_onnx, program):
    with zipfile.ZipFile(program.path) as held:
        members = b"".join(held.read(member) for member in held.namelist())
    for content in (joints_onnx.read_bytes(), members):
        assert b"hourglass.py" not in content
        assert str(tmp_path.parent).encode() not in content


# The check


def runner_beside(graph: Graph, shift_px: float, heights: float = 0.0):
    """Return the graph as an exported file whose joints are shifted to the right."""

    def run(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.no_grad():
            joints, confidence = graph(torch.from_numpy(images))
        return (joints + torch.tensor([shift_px, 0])).numpy(), (confidence + heights).numpy()

    return run


@pytest.fixture
def graph(runs) -> tuple[Graph, CheckpointMetadata]:
    network, metadata = load_network(runs / "mse" / "epoch_0003", CPU)
    return Graph(network, metadata.settings, MPII, GraphSettings(decode=True)), metadata


def test_the_largest_difference_is_returned_up_to_a_twentieth_of_a_pixel(graph):
    made, metadata = graph
    found = compare(made, metadata, runner_beside(made, 0.04, 0.25), rendered(64).images)
    assert found.joint_px == pytest.approx(0.04, abs=1e-3)
    assert found.confidence == pytest.approx(0.25, abs=1e-3)


def test_joints_further_apart_are_an_error(graph):
    made, metadata = graph
    run = runner_beside(made, 0.06, 0.25)
    # Sixteen people, and the first one alone too.
    message = (
        r"^272 of 272 joints are more than 0.05 px from the network's, the furthest 0.06\d* px$"
    )
    with pytest.raises(ExportError, match=message):
        compare(made, metadata, run, rendered(64).images)


def test_joints_that_move_while_confidence_stays_are_explained(graph):
    made, metadata = graph
    with pytest.raises(ExportError, match="have two equal maxima"):
        compare(made, metadata, runner_beside(made, 4.0), rendered(64).images[:1])


def test_a_value_that_is_not_finite_is_an_error_on_either_side(graph):
    made, metadata = graph
    with pytest.raises(ExportError, match=r"^the exported file has heatmaps that are not finite$"):
        compare(made, metadata, runner_beside(made, 0.0, float("nan")), rendered(64).images[:2])


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_an_export_that_fails_states_the_reason(tmp_path, runs, capsys, monkeypatch, to):
    forward = Residual.forward

    def looking(self: Residual, x: torch.Tensor) -> torch.Tensor:
        # A graph can't branch on computed values.
        return forward(self, x) if bool(x.sum() > 0) else x

    monkeypatch.setattr(Residual, "forward", looking)
    out = tmp_path / f"network{'.onnx' if to == 'onnx' else '.pt2'}"
    arguments = ("mse", "--to", to, "--out", str(out), "--ray.storage", str(runs))
    status, error = fails(capsys, *arguments)
    assert status == 1
    # torch prints the incomplete graph.
    *_, output = error.splitlines()
    assert output.startswith("error: not exported: torch.export: ")
    assert "data-dependent" in output
    assert list(tmp_path.iterdir()) == []


def test_the_report_has_the_checks_and_the_parts_outside_the_graph(program):
    output = program.printed
    assert "in the graph: normalisation\n" in output
    assert "not in the graph: heatmaps of stacks before the last, flip test, decoding\n" in output
    assert "checked against the network on 16 rendered people, no photographs, one at a " in output
    assert "largest difference: " in output


@pytest.fixture
def answering_alike(monkeypatch, graph) -> None:
    """Have `--decode` write an empty file, which answers as the network of the run `mse`."""
    run = runner_beside(graph[0], 0.0)
    monkeypatch.setattr("pipeline.inference.export.write.write", lambda *given: given[2].touch())
    monkeypatch.setattr("pipeline.inference.export.write.load", lambda *_: run)


@pytest.mark.usefixtures("answering_alike")
def test_a_network_is_checked_on_the_people_that_are_given(tmp_path, runs, people, capsys):
    export(runs, tmp_path / "a.pt2", "--decode", "--data.val", str(people[0]))
    message = f"checked against the network on 8 people of data.val={people[0]}, one at a time "
    assert message in capsys.readouterr().out
    cv2.imwrite(str(tmp_path / "one.png"), photograph())
    export(runs, tmp_path / "b.pt2", "--decode", "--photographs", str(tmp_path / "one.png"))
    assert "checked against the network on 1 photographs, " in capsys.readouterr().out


@pytest.mark.usefixtures("answering_alike")
def test_a_checkpoint_is_checked_on_the_people_it_was_validated_on(tmp_path, runs, people, capsys):
    network, metadata = load_network(runs / "mse" / "epoch_0003", CPU)
    settings = metadata.settings.replaced({"data.val": str(people[0])})
    folder = tmp_path / "c"
    folder.mkdir()
    write_checkpoint(folder, take_snapshot(network, replace(metadata, settings=settings)))
    out = ("--to", "torch-export", "--out", str(tmp_path / "n.pt2"))
    jobs.export.main([str(folder), "--decode", *out])
    assert f"on 8 people of data.val={people[0]}, one at a time " in capsys.readouterr().out


@pytest.mark.usefixtures("answering_alike")
def test_a_file_that_fails_the_check_never_has_its_name(tmp_path, runs, capsys):
    network, metadata = load_network(runs / "mse" / "epoch_0003", CPU)
    with torch.no_grad():
        network.stem_conv.weight[0, 0, 0, 0] = float("nan")
    folder = tmp_path / "runs" / "bad" / "epoch_0001"
    folder.mkdir(parents=True)
    write_checkpoint(folder, take_snapshot(network, metadata))
    out = tmp_path / "network.pt2"
    arguments = ("--decode", "--to", "torch-export", "--out", str(out))
    status, error = fails(capsys, str(folder), *arguments)
    assert status == 1
    assert error == "error: not exported: the network has heatmaps that are not finite\n"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_real_photographs_agree(joints_onnx, runs, lspet_dir):
    network, metadata = load_network(runs / "mse" / "epoch_0003", CPU)
    chosen = GraphSettings(decode=True, flip_test=True)
    places = [str(lspet_dir / "images" / f"im0000{number}.jpg") for number in range(1, 8)]
    seen = of_photographs(places, 64)
    assert seen.source == "7 photographs"
    graph = Graph(network, metadata.settings, MPII, chosen)
    assert compare(graph, metadata, load("onnx", joints_onnx), seen.images).joint_px <= MOST_PX


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("nobody", "--to", "onnx"), "MODEL='nobody': no such folder, and none of this name in"),
        (("mse", "--to", "onnx", "--out", "n.pt2"), "a file of --to onnx must end in .onnx"),
        (("mse", "--to", "torch-export", "--out", "no/n.pt2"), "no/n.pt2: no folder no"),
        (
            ("mse", "--to", "onnx", "--photographs", "."),
            "--photographs='.': none of the 0 files is an image (",
        ),
        (
            ("mse", "--to", "onnx", "--photographs", ".", "--data.val", "x"),
            "either --photographs or --data.val, got both",
        ),
    ],
)
def test_wrong_input_is_refused(tmp_path, runs, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    status, error = fails(capsys, *options, "--ray.storage", str(runs))
    assert status == 2
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path, runs, capsys):
    out = tmp_path / "n.onnx"
    out.write_text("mine")
    arguments = ("mse", "--to", "onnx", "--out", str(out), "--ray.storage", str(runs))
    assert fails(capsys, *arguments) == (2, f"error: --out {out} exists; expected a new file\n")
    assert out.read_text() == "mine"


def test_a_missing_library_is_named_with_its_install_command(tmp_path, runs, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, error = fails(capsys, "mse", "--to", "onnx", "--ray.storage", str(runs))
    assert status == 2
    assert error.startswith("error: --to onnx needs onnx, onnxscript, onnxruntime, not installed")
    assert "pip install 'hourglass-ray[export]'" in error


def test_checkpoints_are_left_as_they_were(program):
    assert program.left_alone
