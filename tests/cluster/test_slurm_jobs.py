"""Following jobs of Slurm, and its batch script's question, with stand-ins for Slurm."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.cluster import slurm

SCRIPT = Path(__file__).resolve().parents[2] / "jobs/cluster/slurm.sbatch"
SHOWN = "JobId=7 JobName=a b ReqB:S:C:T=0:0:*:* JobState={} ExitCode={}\n StdOut={} Power="
AWAY = ConnectionError("Slurm refused scontrol: Unable to contact slurm controller")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let Slurm give answers in order; return the programs that are called, as they come."""
    clock = [0.0]
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: clock.append(clock[-1] + seconds))
    monkeypatch.setattr(slurm.time, "monotonic", lambda: clock[-1])

    def start(answers: Iterator[str | Exception]) -> list[str]:
        called = []

        def answer(*words: str) -> str:
            called.append(words[0])
            given = next(answers)
            if isinstance(given, Exception):
                raise given
            return given

        monkeypatch.setattr(slurm, "_slurm", answer)
        return called

    return start


def shown(state: str, file: Path, code: str = "0:0") -> str:
    return SHOWN.format(state, code, file)


def test_a_job_is_followed_while_slurm_is_away_for_a_moment(answering, tmp_path):
    file = tmp_path / "my runs" / "slurm-7.out"
    file.parent.mkdir()
    letter = "\N{GREEK SMALL LETTER SIGMA}".encode()
    file.write_bytes(b"epoch 1 " + letter[:1])
    running, ended = shown("RUNNING", file), shown("FAILED", file, "0:9")
    called = answering(iter([AWAY, running, AWAY, running, AWAY, ended, AWAY, ended, running, ""]))
    job = slurm.SlurmJob("7")
    parts = job.output()
    printed = next(parts) + next(parts)
    with file.open("ab") as more:
        more.write(letter[1:] + b" px\n")
    assert printed + "".join(parts) == "epoch 1 \N{GREEK SMALL LETTER SIGMA} px\n"
    assert job.result() == ("failed", 137)
    assert str(file) in job.commands()[0]
    job.stop()
    assert called == ["scontrol"] * 9 + ["scancel"]


def test_a_job_is_left_when_slurm_stays_away(answering, tmp_path):
    def answers() -> Iterator[str | Exception]:
        yield shown("RUNNING", tmp_path / "none")
        while True:
            yield AWAY

    called = answering(answers())
    job = slurm.SlurmJob("7")
    with pytest.raises(ConnectionError, match="Unable to contact"):
        list(job.output())
    # Twice a second for a minute.
    assert len(called) == pytest.approx(122, abs=2)


@pytest.mark.parametrize(
    ("squeue", "lives", "calls"),
    [
        ("echo RUNNING", True, 1),
        ("true", False, 1),
        ("echo 'squeue: warning' >&2", False, 1),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False, 1),
        ("[ $(wc -l <called) -gt 3 ] && echo PENDING", True, 4),
        ("echo 'error: Unable to contact slurm controller' >&2; exit 1", False, 60),
    ],
)
def test_a_task_of_an_array_tells_an_end_from_no_answer(tmp_path, squeue, lives, calls):
    program = tmp_path / "squeue"
    program.write_text(f'#!/bin/bash\necho "$*" >>called\n{squeue}\n')
    program.chmod(0o755)
    found = re.search(r"^lives\(\) \{.*?^\}", SCRIPT.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    script = f"set -u; again=; PATH=.:$PATH; sleep() {{ :; }}\n{found[0]}\nlives 7_0"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, check=False)
    assert (done.returncode == 0) == lives
    asked = (tmp_path / "called").read_text().splitlines()
    assert asked == ["--noheader --format=%T --jobs=7_0"] * calls
