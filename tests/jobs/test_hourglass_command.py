"""The command `hourglass`: its table, its list, and what reads the options."""

import importlib
import os
import re
import signal
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from hourglass_ray.__main__ import COMMANDS, listing, main
from pipeline.io import installation
from pipeline.io.console import clear_errors

ROOT = Path(__file__).resolve().parents[2]


def test_every_command_of_jobs_and_tune_is_one_of_hourglass():
    programs = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("jobs", "tune")
        for path in (ROOT / folder).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    assert {command.module for command in COMMANDS.values()} == programs


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gets_the_words_after_its_name_and_shows_its_own_usage(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hourglass"])
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: hourglass {name} " in shown
    # Commands are named as the reader has called this one.
    assert not re.search(r"\b(jobs|tune)\.[a-z]", shown)
    module = COMMANDS[name].module.removesuffix(".__main__")
    assert installation.command(module) == ["hourglass", name]


def test_as_modules_commands_are_named_as_modules(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jobs/train.py"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("jobs.train", None))
    with pytest.raises(SystemExit):
        importlib.import_module("jobs.train").main(["--help"])
    shown = capsys.readouterr().out
    assert "usage: python -m jobs.train " in shown
    assert "Folder that jobs.pack has written" in " ".join(shown.replace("│", "").split())
    assert installation.command("jobs.pack") == ["python", "-m", "jobs.pack"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("as jobs.pack writes it", "as hourglass pack writes it"),
        ("run 'python -m tune.sweep --help'", "run 'hourglass sweep --help'"),
        ("as tune.compare does", "as hourglass compare_sweeps does"),
        ("ray.tune.run, my.jobs.x", "ray.tune.run, my.jobs.x"),
    ],
)
def test_a_text_names_commands_as_they_are_called(text, named, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/hourglass"])
    assert installation.named(text) == text
    monkeypatch.setattr(sys, "argv", ["hourglass train"])
    assert installation.named(text) == named


@pytest.mark.parametrize("words", [[], ["train", "--help"], ["benchmark", "--help"], ["trian"]])
def test_an_output_that_no_one_reads_ends_a_command_without_a_word(words):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hourglass_ray", *words]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(writing)
    if words == ["trian"]:
        assert (done.returncode, "did you mean 'train'?" in done.stderr) == (2, True)
    else:
        # A help ends as if it had been read, where it notices at all.
        ends = (128 + signal.SIGPIPE, 0)[: 1 + ("--help" in words)]
        assert (done.returncode in ends, done.stderr) == (True, "")


@pytest.mark.parametrize(
    ("do", "files"),
    [
        (lambda folder: (folder / "a").read_bytes(), "{0}/a"),
        (lambda folder: (folder / "a").rename(folder / "b"), "{0}/a -> {0}/b"),
    ],
)
def test_an_error_of_the_system_names_its_files_and_no_number(do, files, tmp_path, capsys):
    with pytest.raises(SystemExit) as end, clear_errors():
        do(tmp_path)
    message = f"error: {files.format(tmp_path)}: No such file or directory\n"
    assert (end.value.code, capsys.readouterr().err) == (1, message)


def test_an_error_after_output_that_no_one_reads_is_printed():
    program = (
        "from pipeline.io.console import clear_errors\n"
        "with clear_errors():\n"
        "    print('a line')\n"
        "    raise ValueError('expected b')\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    # Then the output waits in the process until this has ended.
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=buffered
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "error: expected b\n")


def test_without_a_command_it_lists_them_and_loads_no_heavy_library():
    watched = (
        "import sys; sys.argv = ['hourglass']; from hourglass_ray.__main__ import main; main(); "
        "print(sorted({'torch', 'numpy', 'ray', 'mlflow', 'tyro'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", watched], capture_output=True, text=True, cwd=ROOT)
    *lines, loaded = done.stdout.splitlines()
    assert "\n".join(lines) == listing()
    assert loaded == "[]"
    for name in COMMANDS:
        assert any(line.split()[:1] == [name] for line in lines)


def test_the_help_of_training_loads_neither_torch_nor_numpy():
    importing = "import sys, jobs.train; print({'torch', 'numpy', 'ray'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", importing], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == "set()\n"


def test_an_unknown_command_is_refused_with_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "unknown command 'trian'; did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.slow
def test_bash_completes_the_names_of_commands_and_of_their_options(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--tyro-print-completion", "bash"])
    script = tmp_path / "hourglass"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        asked = (
            f"source {script}; complete -p hourglass >/dev/null || exit 3; "
            f"COMP_WORDS=(hourglass {' '.join(words)}); COMP_CWORD={len(words)}; "
            f"COMP_LINE='hourglass {' '.join(words)}'; COMP_POINT=${{#COMP_LINE}}; "
            "$(complete -p hourglass | sed 's/.*-F \\([^ ]*\\).*/\\1/'); "
            "printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        return set(subprocess.check_output(["bash", "-c", asked], text=True).split())

    assert completed("tra") == {"train"}
    assert "--model.stacks" in completed("train", "--model.sta")


def test_quickstart_explains_itself_before_it_renders_anything(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        importlib.import_module("jobs.quickstart").main(["--help"])
    assert end.value.code == 0
    assert "Render people" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
