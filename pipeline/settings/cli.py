"""What the command lines here do alike: parse quickly, and say what is wrong."""

from argparse import ArgumentParser
from typing import Annotated, TypeVar, cast

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from pipeline.io.console import clear_errors, fail
from pipeline.settings import Settings
from pipeline.settings.presets import preset_help, settings_of

__all__ = ["clear_errors", "fail", "parse"]

Arguments = TypeVar("Arguments")

_registry = ConstructorRegistry()


@_registry.primitive_rule
def _bool(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
    """Read true and false as people write them, not only as Python does."""
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


Presets = Annotated[tuple[str, ...], tyro.conf.arg(help=preset_help(), metavar="NAME ...")]


def preset_settings(argv: list[str] | None) -> Settings:
    """The settings that the command line's `--preset` names, its other settings left out.

    What `parse` is to start from, so that explicit settings win. Names are
    separated by commas or spaces. An unknown one ends the program with status 2.
    """
    reader = ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--preset", nargs="*", action="extend", default=[])
    given, _ = reader.parse_known_args(argv)
    names = [name for word in given.preset for name in word.split(",") if name]
    with clear_errors():
        return Settings.from_flat(settings_of(names))


def parse(
    arguments: type[Arguments],
    description: str | None,
    argv: list[str] | None,
    default: Arguments | None = None,
) -> Arguments:
    """Read the command line; what is wrong with it ends the program with status 2 and a message.

    What is not given is `default`'s.
    """
    # Settings that only clash with one another are past tyro's own messages.
    with clear_errors():
        read = tyro.cli(
            arguments,
            description=description,
            args=argv,
            default=default,
            registry=_registry,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    # tyro takes the default's type, None and all, for the answer's.
    return cast(Arguments, read)
