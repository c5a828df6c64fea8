"""Commands in README and the documentation: each parses."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hourglass_ray.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
# tests/jobs/test_cluster_files.py holds the commands of the guide to clusters.
GUIDE = ROOT / "jobs/cluster/README.md"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# A fenced block of shell lines, or lines that are indented as code.
FENCED = re.compile(r"^ *```(?:bash|sh|shell)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4,}\S[^\n]*\n)+", re.MULTILINE)
COMMAND = re.compile(r"(?:python3? -m ((?:jobs|tune)\.\w+)|(?:^|\s)hourglass ([a-z]\w*))(.*)")


def shell_blocks(text: str) -> list[str]:
    return FENCED.findall(text)


def commands(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield module and arguments of every command line of ours in a document."""
    text = path.read_text()
    outside = FENCED.sub("", text)
    for block in (*shell_blocks(text), *INDENTED.findall(outside)):
        for line in block.replace("\\\n", " ").splitlines():
            for module, name, rest in COMMAND.findall(line.partition(" #")[0]):
                words = shlex.split(rest)
                yield module or COMMANDS[name].module, words
                if "--" in words:
                    # The command that is submitted.
                    name, *words = words[words.index("--") + 1 :]
                    yield COMMANDS[name].module, words


FOUND = [
    pytest.param(module, arguments, id=f"{path.stem}: {module} {' '.join(arguments)}"[:90])
    for path in DOCUMENTS
    for module, arguments in commands(path)
]


def without_places(words: list[str]) -> list[str]:
    """Return a command line without the options `--data` and `--config` and their values."""
    options = ("--data", "--config")
    pairs = zip([""] + words, words, strict=False)
    return [word for before, word in pairs if word not in options and before not in options]


class ParsedError(Exception):
    """A command line was read without an error."""


@pytest.mark.parametrize(("module", "arguments"), FOUND)
def test_every_command_line_is_one_that_its_program_reads(module, arguments, monkeypatch):
    program = importlib.import_module(module)
    module = module.removesuffix(".__main__")
    if module in ("jobs.accept", "jobs.benchmark", "jobs.chaos", "jobs.fidelity"):
        program = importlib.import_module(f"{module}.__main__")
    if module == "jobs.quickstart":
        assert arguments == []
        return
    if module in ("jobs.accept", "jobs.benchmark"):
        program._parser().parse_args(arguments)
        return
    read = program.parse

    def parse(*given: object) -> object:
        read(*given)
        raise ParsedError

    # Folders and files that a reader has are not there in a test.
    given = getattr(program, "given_settings", None)
    if given is not None:
        monkeypatch.setattr(
            program, "given_settings", lambda words, found: given(without_places(words), found)
        )
    monkeypatch.setattr(program, "parse", parse)
    with pytest.raises(ParsedError):
        program.main(arguments)


def test_the_documents_have_commands_for_every_program():
    programs = {
        f"jobs.{path.stem}"
        for path in (ROOT / "jobs").glob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    programs |= {"jobs.accept", "jobs.benchmark", "jobs.chaos", "jobs.fidelity", "tune.sweep"}
    # `make quickstart` runs it.
    programs -= {"jobs.quickstart"}
    assert programs <= {module for path in DOCUMENTS for module, _ in commands(path)}


def test_readme_opens_with_the_two_commands_that_set_everything_up():
    first = shell_blocks((ROOT / "README.md").read_text())[0]
    targets = re.findall(r"^make (\S+)", first, re.MULTILINE)
    assert targets == ["quickstart", "test"]
    for target in re.findall(r"`make ([\w-]+)`", (ROOT / "README.md").read_text()):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_the_site_has_no_broken_link_and_names_nothing_that_is_gone(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/architecture.html").exists()


def test_readme_fits_on_few_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_markdown_wraps_at_100_columns_but_for_tables_and_links():
    long = [
        f"{path.name}:{number}"
        for path in (*DOCUMENTS, GUIDE, ROOT / "CHANGELOG.md")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > 100 and not re.search(r"^\s*\||https?://|^!\[|^ {4}\S|^[\w,]+$", line)
    ]
    assert long == []


def test_the_gallery_shows_each_of_its_pictures_and_each_figure_of_a_run():
    from pipeline.tracking.summary import PICTURES

    text = (ROOT / "docs/gallery.md").read_text()
    shown = set(re.findall(r"\(gallery/(\w+)\.webp\)", text))
    assert shown == {path.stem for path in (ROOT / "docs/gallery").glob("*.webp")}
    named = {name.removesuffix(".png") for name in re.findall(r"`(\w+\.png)`", text)}
    # The file of an epoch is named by its number.
    assert named == set(PICTURES) - {"overlay"}
    assert named | {"overlay_first", "overlay_last"} == shown
