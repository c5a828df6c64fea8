"""Parsing of every command line, and its errors."""

import io
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from pipeline.io.console import clear_errors, fail, say
from pipeline.io.installation import PACKAGE, command, named
from pipeline.io.redaction import redacted
from pipeline.settings import Settings
from pipeline.settings.config_file import config_text, packed_folder
from pipeline.settings.presets import preset_help, settings_of

__all__ = ["TrainingArguments", "clear_errors", "fail", "given_settings", "parse"]

Arguments = TypeVar("Arguments")

_registry = ConstructorRegistry()


@_registry.primitive_rule
def _bool(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
    """Accept true and false in any case; tyro accepts only Python's True and False."""
    if info.type is not bool:
        return None
    words = {"true": True, "false": False}

    def read(arguments: list[str]) -> bool:
        if arguments[0].lower() not in words:
            raise ValueError(f"expected true or false, got {arguments[0]!r}")
        return words[arguments[0].lower()]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{true,false}",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
    )


_joining: list[StructTypeInfo] = []


@_registry.struct_rule
def _joined_help(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Join the lines of each field's docstring; tyro keeps the breaks before indented lines."""
    if any(info is other for other in _joining):
        return None  # called from below: leave it to tyro's own rule
    _joining.append(info)
    try:
        found = ConstructorRegistry.get_struct_spec(info)
    finally:
        _joining.pop()
    if not isinstance(found, StructConstructorSpec):
        return None
    return replace(found, fields=tuple(map(_with_joined_help, found.fields)))


def _with_joined_help(field: StructFieldSpec) -> StructFieldSpec:
    def joined() -> str | None:
        text = field.helptext() if callable(field.helptext) else field.helptext
        return text and named(" ".join(text.split()))

    return replace(field, helptext=joined)


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """Settings of training, and where those come from that are not given singly."""

    settings: Annotated[Settings, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff] = field(
        default_factory=Settings
    )
    preset: Annotated[tuple[str, ...], tyro.conf.arg(help=preset_help(), metavar="NAME ...")] = ()
    packed: Annotated[str, tyro.conf.arg(name="data", metavar="DIR")] = ""
    """Folder that jobs.pack has written, in place of data.train and data.val."""
    config: Annotated[str, tyro.conf.arg(metavar="FILE|RUN")] = ""
    """File of settings in TOML, such as --save-config writes; or whatever model.start takes, whose
    settings are taken but for name and storage. Options of the command line win."""
    save_config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write the settings to that are not the defaults. The command then continues; with
    --dry-run it starts nothing."""

    def save(self) -> None:
        """Write the file that `--save-config` names, if it does."""
        if self.save_config is not None:
            try:
                self.save_config.write_text(config_text(self.settings), encoding="utf-8")
            except OSError as error:
                raise ValueError(
                    f"--save-config {self.save_config}: can't be written: {error.strerror}"
                ) from None
            say(f"written: {self.save_config}")


def given_settings(
    argv: list[str] | None, of_config: Callable[[str, str, str], dict[str, Any]]
) -> Settings:
    """Return the settings of the options `--config`, `--preset` and `--data`, later ones winning.

    As the default of `parse`, they yield to explicit settings. `of_config` returns those of a file
    or run, which it finds with the values of `--ray.storage` and `--tracking.uri`. Wrong ones end
    the program with status 2.
    """
    reader = ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--preset", nargs="*", action="extend", default=[])
    reader.add_argument("--config", nargs="?")
    reader.add_argument("--data", nargs="?")
    reader.add_argument("--ray.storage", dest="storage", nargs="?")
    reader.add_argument("--tracking.uri", dest="uri", nargs="?")
    given, _ = reader.parse_known_args(argv)
    names = [name for word in given.preset for name in word.split(",") if name]
    with clear_errors():
        settings: dict[str, Any] = {}
        if given.config:
            settings |= of_config(given.config, given.storage or "", given.uri or "")
        settings |= settings_of(names)
        if given.data:
            settings |= packed_folder(given.data)
        return Settings.from_flat(settings)


def parse(
    arguments: type[Arguments],
    description: str | None,
    argv: list[str] | None,
    default: Arguments | None = None,
) -> Arguments:
    """Parse the command line; options that are not given are `default`'s.

    An error ends the program with a message and status 2. It shows values as `redacted` does, and
    of an unknown option its name alone.
    """
    words = sys.argv[1:] if argv is None else argv

    def read(words: list[str], **options: Any) -> Any:
        return tyro.cli(
            arguments,
            prog=_program(),
            description=description and named(description),
            args=words,
            default=default,
            registry=_registry,
            config=(tyro.conf.FlagCreatePairsOff,),
            **options,
        )

    refused: Collection[str] = ()
    # Settings check themselves, and each other, after tyro has parsed them.
    with clear_errors():
        try:
            # tyro's error would show values whole, and break them at the ends of lines.
            with redirect_stderr(io.StringIO()):
                found, refused = read(words, return_unknown_args=True)
        except SystemExit as end:
            if not end.code:
                raise
        else:
            if not refused:
                # tyro infers the default's type, None included, as the result's.
                return cast(Arguments, found)
        with suppress(SystemExit), redirect_stdout(io.StringIO()) as text:
            read(["--help"])
        known = set(re.findall(r"--[\w.-]+", text.getvalue()))
        # Without `refused` it is another error, which comes first here too.
        read(_shown(words, refused, known), return_unknown_args=not refused)
        raise ValueError("wrong options; --help lists those that there are")


def _program() -> str | None:
    """Return the name of this program for its usage; None if `sys.argv` has it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = "" if spec is None else spec.name.removesuffix(".__main__")
    name = name.removeprefix(f"{PACKAGE}.")
    return " ".join(command(name)) if name.partition(".")[0] in ("jobs", "tune") else None


def print_completion(
    program: str, parsers: Mapping[str, Callable[..., Any]], argv: list[str]
) -> None:
    """Print or write a shell's completion of a program with commands, as tyro's option says."""
    tyro.extras.subcommand_cli_from_dict(
        dict(parsers),
        prog=program,
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
        registry=_registry,
    )


def _shown(words: list[str], refused: Collection[str], known: Collection[str]) -> list[str]:
    """Return a command line without secrets; of unknown options and what follows the name alone."""
    shown, is_known = [], True
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--"):
            is_known = name.replace("_", "-") in known
        if is_known and word not in refused:
            shown.append(redacted(word))
        else:
            shown.append(redacted(name) if name.startswith("-") else "***")
    return shown
