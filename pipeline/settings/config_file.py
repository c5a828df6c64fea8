"""Settings from a file or of a packed folder, and a file of settings: TOML by dotted key."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.io.console import say
from pipeline.io.inside import read_whole
from pipeline.io.installation import named
from pipeline.io.location import is_remote, local_path
from pipeline.io.parsing import parse_toml
from pipeline.settings.tree import Settings

# What jobs.pack writes: shards of a split, and the index beside them.
_SHARDS, _INDEX = "{}-*.tar", "index.json"
_DATA = ("data.train", "data.val")
# They have a meaning in the patterns of data.train and data.val.
_SPECIAL = ",{}*?[]"
# Of one run: another one that is made from its settings has others. The last two are those of its
# machine, also where the run's settings left them to it.
_OF_ONE_RUN = (
    *("ray.name", "ray.storage", "ray.scratch", "model.joints"),
    *("ray.cpus_per_worker", "data.threads"),
)


def packed_folder(folder: str) -> dict[str, Any]:
    """Return data.train and data.val of a folder that jobs.pack has written.

    Raises ValueError if it is none, or if its shards can't be found by a pattern.
    """
    if folder.startswith(("http:", "https:")):
        raise ValueError(
            f"--data {folder}: a web server lists no files; give --data.train and --data.val, such "
            "as 'https://host/train-{000000..000012}.tar'"
        )
    if set(folder) & set(_SPECIAL):
        raise ValueError(
            f"--data {folder}: a folder's name must have none of {' '.join(_SPECIAL)}; give "
            "--data.train and --data.val"
        )
    place = folder
    if not is_remote(folder):
        place = str(Path(local_path(folder)).expanduser())
        if not (Path(place) / _INDEX).is_file():
            raise ValueError(
                f"--data {folder}: no {_INDEX} there; expected a folder that "
                f"{named('jobs.pack')} has written"
            )
    place = place.rstrip("/")
    return {f"data.{split}": f"{place}/{_SHARDS.format(split)}" for split in ("train", "val")}


def packed_folder_of(train: str, val: str) -> str:
    """Return the folder of which `packed_folder` gives these patterns; empty if there is none."""
    folder = train.rpartition("/")[0]
    try:
        found = packed_folder(folder) if folder else {}
    except ValueError:
        return ""
    return folder if found == {"data.train": train, "data.val": val} else ""


def option_words(settings: Settings, left_out: Collection[str]) -> list[str]:
    """Return options of a command line for all but the defaults and `left_out`, without secrets."""
    shown, defaults = settings.shown(), Settings().flat()
    words, left_out = list[str](), set(left_out)
    if left_out.isdisjoint(_DATA):
        folder = packed_folder_of(*(str(shown[key]) for key in _DATA))
        words = ["--data", folder] if folder else []
        left_out |= set(_DATA) if folder else set()
    for key, value in shown.items():
        if key not in left_out and value != defaults[key]:
            words += option(key.replace("_", "-"), value)
    return words


def option(name: str, value: Any) -> list[str]:
    """Return an option of a command line, with the values of a list as words of their own."""
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(_word, value)]
    word = _word(value)
    # A separate word that begins with a dash would be parsed as an option.
    return [f"--{name}={word}"] if word.startswith("-") else [f"--{name}", word]


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    # NumPy's floats would lose digits in str().
    return repr(float(value)) if isinstance(value, float) else str(value)


def read_config(path: Path) -> dict[str, Any]:
    """Read a file of settings: `model.stacks = 4`, or `stacks = 4` in a table `[model]`.

    Raises ValueError naming the file, and the setting if it has another type or range.
    """
    try:
        content = parse_toml(read_whole(path), f"--config {path}")
    except OSError as error:
        raise ValueError(f"--config {path}: {error.strerror}") from None
    flat: dict[str, Any] = {}
    for section, values in content.items():
        if not isinstance(values, dict):
            raise ValueError(
                f"--config {path}: {section!r} is no setting; expected dotted keys such as "
                "model.stacks, or tables such as [model]"
            )
        flat |= {f"{section}.{name}": value for name, value in values.items()}
    try:
        Settings.from_flat(flat)
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from None
    return flat


def reusable(settings: Settings) -> dict[str, Any]:
    """Return the settings of a run for another one: neither its place nor its machine's.

    Those that had a secret, which records leave out, are named.
    """
    shown = {key: value for key, value in settings.shown().items() if key not in _OF_ONE_RUN}
    hidden = [key for key, value in shown.items() if "***" in str(value)]
    if hidden:
        say(f"note: {', '.join(hidden)} had a secret, which is not recorded: give it again")
    return {key: value for key, value in shown.items() if key not in hidden}


def config_text(settings: Settings) -> str:
    """Return a file of the settings that are not the defaults, by section, without secrets."""
    defaults, sections = Settings().flat(), dict[str, list[str]]()
    for key, value in settings.shown().items():
        section, _, name = key.partition(".")
        if value != defaults[key]:
            lines = sections.setdefault(section, [])
            hidden = "# a secret is left out: " if "***" in str(value) else ""
            # JSON's strings, numbers, true and false are TOML's too.
            lines.append(f"{hidden}{name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join("\n".join([f"[{section}]", *lines, ""]) for section, lines in sections.items())
