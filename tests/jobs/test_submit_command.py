"""The command `submit`: what it makes of a command line, its errors, and its signals."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import ray
from answering_server import Server, answering
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from hourglass_ray.__main__ import COMMANDS
from jobs import submit
from jobs.submit import FLAGS, PATHS, PATHS_OR_NAMES, POSITIONAL, SEVERAL, main, portable
from pipeline.cluster import submission
from pipeline.io import installation


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path


def test_relative_paths_become_absolute_whether_they_exist_or_not(folder):
    words = [
        *("--data.train", "out/a-{0,1}.tar,/shared/b.tar", "--data.val", "s3://bucket/v-*.tar"),
        *("--ray.storage=runs", "--tracking.uri", "sqlite:///mlflow.db", "--data", "../people"),
    ]
    assert portable("train", words)[0] == [
        *("--data.train", f"{folder}/out/a-{{0,1}}.tar,/shared/b.tar"),
        *("--data.val", "s3://bucket/v-*.tar", f"--ray.storage={folder}/runs"),
        *("--tracking.uri", f"sqlite:///{folder}/mlflow.db", "--data", f"{folder}/../people"),
    ]


def test_what_may_be_a_name_is_a_path_only_where_one_exists(folder):
    (folder / "runs/mouse").mkdir(parents=True)
    (folder / "paper").mkdir()
    words = ["--preset", "paper", "--model.start", "runs/mouse", "--ray.name", "mouse"]
    assert portable("train", words)[0] == [
        *("--preset", "paper", "--model.start", f"{folder}/runs/mouse", "--ray.name", "mouse")
    ]
    words = ["--model.start", "runs/horse", "--tracking.uri", "http://mlflow:5000"]
    assert portable("train", words)[0] == words


@pytest.mark.parametrize(
    ("command", "words", "wanted"),
    [
        ("evaluate", "--data out/people eight-stacks", "--data HERE/out/people eight-stacks"),
        ("evaluate", "--json f.json models:/N@best", "--json HERE/f.json models:/N@best"),
        ("evaluate", "--json=f.json --every-stack mouse", "--json=HERE/f.json --every-stack "
         "HERE/mouse"),
        ("evaluate", "--checkpoint models:/N@best --stacks 2", "--checkpoint models:/N@best "
         "--stacks 2"),
        ("predict", "mouse photo.jpg *.png absent", "HERE/mouse HERE/photo.jpg HERE/*.png absent"),
        ("predict", "s3://b/m photo.jpg --formats csv coco", "s3://b/m HERE/photo.jpg --formats "
         "csv coco"),
        ("export", "mouse --to onnx --photographs photo.jpg b.png", "HERE/mouse --to onnx "
         "--photographs HERE/photo.jpg HERE/b.png"),
        ("inspect", "out/a-{0,1}.tar,b.tar --out card", "HERE/out/a-{0,1}.tar,HERE/b.tar --out "
         "HERE/card"),
        ("pack", "coco --annotations a.json", "coco --annotations HERE/a.json"),
        ("pack", "--predictions photo.jpg --out out", "--predictions HERE/photo.jpg --out "
         "HERE/out"),
    ],
)  # fmt: skip
def test_words_after_no_option_become_absolute_where_they_exist(folder, command, words, wanted):
    for name in ("mouse", "coco", "csv"):
        (folder / name).mkdir()
    for name in ("photo.jpg", "b.png", "2"):
        (folder / name).touch()
    assert " ".join(portable(command, words.split())[0]) == wanted.replace("HERE", str(folder))


def test_trained_teachers_become_absolute_each_by_itself(folder):
    for name in ("runs/a", "runs/b", "c"):
        (folder / name).mkdir(parents=True)
    words = ["--optim.teacher", "runs/a, runs/b,c,d,models:/N@best", "--optim.teacher=last-stack"]
    assert portable("train", [*words, "--ray.scratch", "scratch"])[0] == [
        *("--optim.teacher", f"{folder}/runs/a,{folder}/runs/b,{folder}/c,d,models:/N@best"),
        *("--optim.teacher=last-stack", "--ray.scratch", f"{folder}/scratch"),
    ]


def test_files_of_settings_are_sent_along(folder):
    (folder / "my.toml").write_text("")
    words, files = portable(
        "sweep", ["--config", "my.toml", "--space=my.toml", "--config=runs/other"]
    )
    assert words == ["--config", "config-my.toml", "--space=space-my.toml", "--config=runs/other"]
    assert files == {"config-my.toml": Path("my.toml"), "space-my.toml": Path("my.toml")}


def shown_options(name: str, capsys: pytest.CaptureFixture[str], pattern: str) -> set[str]:
    """Return the options of a command that match a pattern in its help, without dots."""
    assert submit.COMMANDS[name] == COMMANDS[name].module
    program = __import__(COMMANDS[name].module, fromlist=["main"])
    with pytest.raises(SystemExit):
        program.main(["--help"])
    found = re.findall(pattern, capsys.readouterr().out)
    return {option.replace(".", "-") for option in found}


@pytest.mark.parametrize("name", submit.COMMANDS)
def test_every_option_that_is_a_path_is_known_to_be_one(name, capsys):
    options = shown_options(name, capsys, r"--([\w.-]+) (?=\S*(?:DIR|FILE|PATH|MODEL|PLACE))")
    assert options - {"config"} <= PATHS | PATHS_OR_NAMES


@pytest.mark.parametrize("name", POSITIONAL)
def test_every_option_that_takes_not_one_value_is_known(name, capsys):
    assert shown_options(name, capsys, r"(?m)^\W*--([\w.-]+)  ") <= FLAGS
    assert shown_options(name, capsys, r"--([\w.-]+) (?=\[|\S+ \.\.\.)") <= SEVERAL


def test_no_option_is_known_that_no_command_has(capsys):
    shown = [shown_options(name, capsys, r"(?m)^\W*--([\w.-]+)") for name in POSITIONAL]
    assert set().union(*shown) >= FLAGS | SEVERAL


def test_a_word_that_is_no_command_is_refused_with_the_nearest(folder, capsys):
    for words, got in (([], "''"), (["--", "trian"], "'trian'; did you mean 'train'?")):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
        assert capsys.readouterr().err.endswith(f"got {got}\n")


def test_without_a_cluster_the_command_runs_here(folder, monkeypatch):
    became = []

    def become(program: str, words: list[str]) -> None:
        became.append(words)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setenv("PYTHONPATH", "/other")
    with pytest.raises(SystemExit):
        main(["--", "train", "--data", "out/people"])
    assert became == [[sys.executable, "-m", "jobs.train", "--data", "out/people"]]
    assert os.environ["PYTHONPATH"] == f"{installation.import_path()}:/other"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line with which the command ends."""
    with pytest.raises(SystemExit) as end:
        main([*words, "--", "train"])
    assert end.value.code in (1, 2)
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_without_slurm_or_a_cluster_it_ends_with_one_line(folder, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(folder))
    assert said(capsys, "--to", "slurm") == (
        "error: no sbatch on this machine: submit from a login node of the Slurm cluster"
    )
    assert "--sbatch nodes=2: expected --to slurm" in said(capsys, "--sbatch", "nodes=2")
    assert "--to 127.0.0.1:1: nothing answers there" in said(capsys, "--to", "127.0.0.1:1")
    assert "--to ray://: expected slurm, or the address" in said(capsys, "--to", "ray://")
    assert "--to ftp://a: expected slurm, or the address" in said(capsys, "--to", "ftp://a")


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server whose answer a test chooses."""
    with answering() as started:
        yield started


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (401, b"", "the cluster's token is missing here, or differs: copy its ~/.ray/auth_token"),
        (403, b"", "the cluster's token is missing here, or differs: copy its ~/.ray/auth_token"),
        (404, b"", "what answers there is not the dashboard of a Ray cluster, whose port is 8265"),
        (200, b"<html>", "what answers there is not the dashboard of a Ray cluster"),
        (200, b"{}", "what answers there is not the dashboard of a Ray cluster"),
        (200, json.dumps({"ray_version": "2.59.1"}).encode(), f"the cluster has Ray 2.59.1, this "
         f"machine {ray.__version__}; install the same on both"),
    ],
)  # fmt: skip
def test_what_answers_and_is_no_cluster_of_ours_is_named(
    folder, server, capsys, status, body, wanted
):
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    server.answer = answer
    url = f"http://127.0.0.1:{server.server_port}"
    assert said(capsys, "--to", url).startswith(f"error: --to {url}: {wanted}")


class Client(JobSubmissionClient):
    """A client of a job server that answers with errors first."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)

    def submit_job(self, **given: object) -> str:
        if answer := self._answers.pop(0):
            raise RuntimeError(f"Request failed with status code 500: {answer}")
        return "job-1"


def test_a_cluster_that_has_just_started_is_asked_again(monkeypatch):
    waits = []
    monkeypatch.setattr(submission.time, "sleep", waits.append)
    later = "No available agent to submit job, please try again later."
    assert submission._taken(Client(later, later, ""), "http://head", "train", "code") == "job-1"
    assert len(waits) == 2
    with pytest.raises(ConnectionError, match=r"^http://head: the job was not taken: no disk$"):
        submission._taken(Client("no disk"), "http://head", "train", "code")


class Ended(JobSubmissionClient):
    """A client of a job server whose job has ended."""

    def __init__(self, status: str, code: int | None) -> None:
        self._info = JobDetails(
            type="SUBMISSION", entrypoint="", status=JobStatus(status), driver_exit_code=code
        )

    def get_job_info(self, job_id: str) -> JobDetails:
        return self._info


@pytest.mark.parametrize(
    ("status", "code", "wanted"),
    [
        ("SUCCEEDED", 0, ("succeeded", 0)),
        ("FAILED", 2, ("failed", 2)),
        ("FAILED", -9, ("failed", 137)),
        ("STOPPED", 143, ("stopped", 143)),
        ("FAILED", None, ("failed", 1)),
    ],
)
def test_a_job_ends_with_the_status_of_its_command_as_shells_count(status, code, wanted):
    assert submission.RayJob(Ended(status, code), "http://head", "job-1").result() == wanted


class Finished:
    """A job that runs until it is stopped, and receives signals."""

    name = "job-1"

    def __init__(self, *received: int) -> None:
        self._received = list(received)
        self.is_stopped = False

    def output(self) -> Iterator[str]:
        yield "epoch 1\n"
        for number in self._received:
            os.kill(os.getpid(), number)
            yield ""
        while not self.is_stopped:
            yield ""

    def stop(self) -> None:
        self.is_stopped = True

    def result(self) -> tuple[str, int]:
        return "stopped", 143

    def commands(self) -> list[str]:
        return ["follow job-1", "stop job-1"]


@pytest.mark.parametrize(
    ("options", "is_stopped", "out", "err"),
    [
        ([], False, "SIGINT: detached; job job-1 keeps running\n", ""),
        (["--ctrl-c", "stop"], True, "a second signal only ends this command\n", "job-1 stopped\n"),
    ],
)
def test_ctrl_c_detaches_or_stops(folder, monkeypatch, capsys, options, is_stopped, out, err):
    job = Finished(signal.SIGINT)
    monkeypatch.setattr(submission, "submit", lambda to, there, files: job)
    with pytest.raises(SystemExit) as end:
        main(["--to", "http://head:8265", *options, "--", "train"])
    assert end.value.code == 130
    assert job.is_stopped is is_stopped
    shown = capsys.readouterr()
    assert "  its output: follow job-1\n  its end:    stop job-1\nepoch 1\n" in shown.out
    assert shown.out.endswith(out)
    assert shown.err.endswith(err)


def test_a_job_is_left_at_once_if_wished(folder, monkeypatch, capsys):
    monkeypatch.setattr(submission, "submit", lambda to, there, files: Finished())
    main(["--to", "http://head:8265", "--detach", "--", "train"])
    assert capsys.readouterr().out.endswith("its end:    stop job-1\n")


def test_the_code_that_is_sent_has_no_ignored_files(tmp_path, monkeypatch):
    installation.copy_code(tmp_path / "sent")
    sent = {str(path.relative_to(tmp_path / "sent")) for path in (tmp_path / "sent").rglob("*.*")}
    assert {"jobs/train.py", "tune/sweep.py", "pipeline/evaluation/report.html.j2"} <= sent
    assert {"hourglass_ray/__main__.py", "pipeline/cluster/worker.py"} <= sent
    assert not [name for name in sent if "__pycache__" in name]
    assert {name.split("/")[0] for name in sent} == {"hourglass_ray", "jobs", "pipeline", "tune"}
    # Outside a checkout too.
    monkeypatch.setattr(installation, "git", lambda *_: None)
    installation.copy_code(tmp_path / "again")
    again = {
        str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*.*")
    }
    assert again == sent
