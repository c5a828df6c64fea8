"""Sides in the names of joints: pairs of names that differ in left and right alone."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

Side = Literal["left", "right"]

_WORDS: dict[str, Side] = {"left": "left", "right": "right", "lft": "left", "rgt": "right"}
_LETTERS: dict[str, Side] = {"l": "left", "r": "right"}
# left and EAR of left_EAR, ear and L of earL, LF and Paw of LFPaw, Left and Ear of LeftEar.
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A name as a side and the rest, without case and separators.

    `clue` is what states the side: `word`, or the place of a letter at one end of a longer part.
    Two names must have the same one, since many words begin or end with these letters.
    """

    side: Side
    rest: str
    clue: str


def are_sides(first: str, second: str) -> bool:
    """Whether two names are those of one joint on the left and on the right."""
    return any(
        one.side != other.side and (one.rest, one.clue) == (other.rest, other.clue)
        for one in _readings(first)
        for other in _readings(second)
    )


def side_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """List the pairs of names that differ in left and right alone, by their positions."""
    return [pair for pair in combinations(range(len(names)), 2) if are_sides(*_at(names, pair))]


def side_of(name: str) -> Side | None:
    """Return the side that a whole word or letter of a name states; None if none or both do."""
    sides = {reading.side for reading in _readings(name) if reading.clue == "word"}
    return sides.pop() if len(sides) == 1 else None


def common_side(names: Sequence[str]) -> Side | None:
    """Return the side that all names state; None if they state none or differ."""
    sides = set(map(side_of, names))
    return sides.pop() if len(sides) == 1 else None


def plain_name(name: str) -> str:
    """Return a joint's name without case and separators: tools write Left Eye or left-eye."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _at(names: Sequence[str], pair: tuple[int, int]) -> tuple[str, str]:
    return names[pair[0]], names[pair[1]]


@lru_cache(maxsize=1024)
def _readings(name: str) -> tuple[_Reading, ...]:
    return tuple(_read(name))


def _read(name: str) -> Iterator[_Reading]:
    parts = [part.lower() for part in _PARTS.findall(name)]
    for place, part in enumerate(parts):

        def rest(kept: str, place: int = place) -> str:
            return "".join([*parts[:place], kept, *parts[place + 1 :]])

        if part in _LETTERS:
            yield _Reading(side=_LETTERS[part], rest=rest(""), clue="word")
            continue
        for word, side in _WORDS.items():
            if part.startswith(word):
                yield _Reading(side=side, rest=rest(part.removeprefix(word)), clue="word")
            elif word in part:
                yield _Reading(side=side, rest=rest(part.replace(word, "", 1)), clue="word")
        for letter, side in _LETTERS.items():
            if part.startswith(letter):
                yield _Reading(side=side, rest=rest(part[1:]), clue=f"first of part {place}")
            if part.endswith(letter):
                yield _Reading(side=side, rest=rest(part[:-1]), clue=f"last of part {place}")
