"""The Python API: what a caller gets, what is raised, and what mypy knows of it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from factories import SMALL_CALL

import hourglass_ray
import pipeline
from hourglass_ray.api import _toml
from pipeline.cluster.start import cluster
from pipeline.io.interruption import orderly_stop, stopped_by_interrupt
from pipeline.run.ownership import own
from tune.spaces import given_values

ROOT = Path(__file__).resolve().parents[1]
CALLER = """
from pathlib import Path

import hourglass_ray as hg
from hourglass_ray import Run

packed: hg.Packed = hg.pack("synthetic", "out/people", scenes=6)
run: Run = hg.train(packed.folder, preset="paper", settings={"model.stacks": 1})
score: float = run.best.metrics["pckh_0.5"]
x: float = float(run.best.predict("photo.jpg", [(0, 0, 9, 9)])[0].joints[0, 0])
mean: float = float(run.curve()["pckh_0.5"].mean())
best: hg.Run = hg.sweep(packed.folder, vary={"model.stacks": [1, 2]}).best
sentences: list[str] = run.compare(best).sentences()
rows: int = len(hg.compare(run, "other").table())
headline: float = hg.evaluate(run, "out/people").headline
folder: Path | str = hg.predict(run.best, "photo.jpg")
first: hg.Checkpoint = run.best
cut: float = float(first.predict("photo.jpg", stacks=1)[0].confidence[0])
folder = hg.predict(first, "photo.jpg", stacks=1)
headline = hg.evaluate(first, "out/people", stacks=1).headline
again: Run = hg.load("runs/one")
"""
TAKE_OVER = """
import sys
from pathlib import Path
from pipeline.run.ownership import own
with own(Path(sys.argv[1]), "run one", take_over=True):
    pass
"""


def test_names_are_loaded_when_they_are_used():
    watched = (
        "import sys, hourglass_ray, pipeline; "
        "print({'torch', 'ray', 'mlflow', 'pandas', 'tyro'} & set(sys.modules)); "
        "hourglass_ray.train; print({'torch', 'ray', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", watched], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\nset()\n", done.stderr


def test_the_library_has_the_same_functions():
    for name in pipeline.__all__:
        assert getattr(pipeline, name) is getattr(hourglass_ray, name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = hourglass_ray.nothing
    with pytest.raises(AttributeError, match="nothing"):
        _ = pipeline.nothing


@pytest.mark.slow
def test_a_callers_file_passes_mypy_in_strict_mode(tmp_path):
    caller = tmp_path / "caller.py"
    caller.write_text(CALLER)
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}

    def checked() -> str:
        done = subprocess.run(
            [*command, caller], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        return done.stdout

    assert checked().startswith("Success"), checked()
    caller.write_text(CALLER.replace("score: float", "score: str"))
    assert 'expression has type "float", variable has type "str"' in checked()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hourglass_ray.train("nowhere"), r"--data nowhere: no index\.json there"),
        (lambda: hourglass_ray.train(preset="papr"), "unknown preset 'papr'; did you mean"),
        (lambda: hourglass_ray.train(settings={"model.stack": 2}), "unknown setting 'model.stack'"),
        (lambda: hourglass_ray.train(), "data.train"),
        (lambda: hourglass_ray.pack("synthetic", "o", scene=2), "unexpected keyword .*'scene'"),
        (lambda: hourglass_ray.pack("lspet", "o"), "--annotations is required for lspet"),
        (lambda: hourglass_ray.pack("synthetic", "http://h/o"), "a web server takes no files"),
        (
            lambda: hourglass_ray.predict("m", "x.jpg", formats=["xml"]),
            r"--formats must name at least one of json, .*, got \('xml',\)",
        ),
        (lambda: hourglass_ray.load("nowhere"), "'nowhere' is not the folder of a run"),
        (lambda: hourglass_ray.compare("one", "one"), "two different runs"),
        (lambda: hourglass_ray.evaluate("nowhere", "nowhere"), "--data nowhere: no index"),
        (lambda: hourglass_ray.sweep(space="stakcs"), "stakcs"),
    ],
)
def test_wrong_input_raises_value_error_and_ends_nothing(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call()


def interrupted_soon(times: int = 1) -> None:
    def interrupt() -> None:
        for _ in range(times):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()


def test_an_interrupt_asks_for_an_orderly_stop_and_a_second_one_raises():
    asked: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with stopped_by_interrupt(), orderly_stop(lambda name: not asked.append(name)):
        interrupted_soon()
        time.sleep(1)
        assert asked == ["SIGINT"]
        interrupted_soon()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_raises_at_once_where_nothing_can_be_asked():
    with stopped_by_interrupt():
        # What one has interrupted may hang as it ends.
        for _ in range(3):
            interrupted_soon()
            with pytest.raises(KeyboardInterrupt):
                time.sleep(10)


def test_a_run_that_is_taken_over_interrupts_the_call_and_not_the_program(tmp_path):
    with stopped_by_interrupt(), own(tmp_path / "run", "run one"):
        other = subprocess.Popen([sys.executable, "-c", TAKE_OVER, str(tmp_path / "run")], cwd=ROOT)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60)
        assert other.wait(60) == 0


@pytest.mark.parametrize(
    "values", [[True, False], [1, 2.5], ["mse", "cross-entropy"], ["a/*.tar,b/*.tar", 'say "x"']]
)
def test_values_of_a_sweep_keep_their_type_and_commas(values):
    words = ",".join(map(_toml, values))
    assert given_values((f"optim.loss={words}",)) == {"optim.loss": tuple(values)}


@pytest.mark.cluster
def test_pack_train_and_what_a_run_gives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with cluster("local"):
        packed = hourglass_ray.pack(
            "synthetic", "out", scenes=8, val_images=2, seed=1, crop={"person_px": 64}
        )
        run = hourglass_ray.train(packed.folder, name="one", settings=SMALL_CALL)
    assert set(packed.people) == {"train", "val"}
    assert (run.name, run.folder) == ("one", tmp_path / "runs/one")
    assert run.settings.model.features == 8
    curve = run.curve()
    assert list(curve.index) == [1]
    metric = "pckh_0.5"
    assert curve.loc[1, metric] == run.best.metrics[metric]
    assert run.best.epoch == 1
    # Measured again, it is what the run recorded.
    assert hourglass_ray.evaluate(run, "out").headline == pytest.approx(run.best.metrics[metric])
    assert hourglass_ray.load("one") == run == hourglass_ray.load("runs/one")
    photograph = tmp_path / "grey.png"
    cv2.imwrite(str(photograph), np.full((50, 40, 3), 128, np.uint8))
    [pose] = run.best.predict(photograph)
    assert pose.joints.shape == (len(run.best.joints), 2)
    assert len(run.best.predict(photograph, [(0, 0, 20, 20), (10, 10, 20, 30)])) == 2
    with pytest.raises(ValueError, match=r"nowhere\.jpg: No such file"):
        run.best.predict("nowhere.jpg")
    (tmp_path / "runs/two").mkdir()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        _ = hourglass_ray.Run(tmp_path / "runs/two").best
