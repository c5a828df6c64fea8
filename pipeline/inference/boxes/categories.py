"""The category of people in a file of boxes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.io.parsing import Identifier, did_you_mean, identifier_of

# Its name in COCO, and its id there; detections have no names.
_PERSON, _COCO_PERSON = "person", 1
_OPTION = "--boxes-category"
_MOST_LISTED = 8


@dataclass(frozen=True, kw_only=True)
class Category:
    """The category to take, None for all entries, and a sentence if there was a choice."""

    id: Identifier | None
    sentence: str = ""


def choose_category(
    path: Path, names: Mapping[Identifier, str], counts: Mapping[Identifier, int], wanted: str
) -> Category:
    """Choose the category with the id or name `wanted`, or if that is empty people's.

    `names` are the file's categories, `counts` its entries of each. Without names and `wanted` a
    sole category is taken, or COCO's person unless there is a category 0, as then ids count from
    0. Raises ValueError listing the categories if there is no such one.
    """
    known = {number: names.get(number, "") for number in (*names, *counts)}
    if not known and not wanted:
        return Category(id=None)
    listed = _listed(known, counts)
    chosen = _wanted(known, wanted) if wanted else _people(names, counts)
    if chosen is None:
        close = did_you_mean(wanted, filter(None, known.values())) if wanted else ""
        problem = f"no category {wanted!r}" if wanted else "no category is known to be people's"
        way_out = close or f"; give {_OPTION} with an id or a name"
        raise ValueError(f"{path}: {problem} among {listed or 'no categories'}{way_out}")
    if counts and not counts.get(chosen):
        raise ValueError(
            f"{path}: no entry is of category {_label(chosen, known)}, the categories are "
            f"{listed}; give {_OPTION}"
        )
    is_plain = len(counts) < 2 and (chosen == _COCO_PERSON or known[chosen].lower() == _PERSON)
    sentence = f"entries of category {_label(chosen, known)} are people, among {listed}"
    return Category(id=chosen, sentence="" if is_plain else sentence)


def _wanted(known: Mapping[Identifier, str], wanted: str) -> Identifier | None:
    number = identifier_of(wanted, _OPTION)
    return number if number in known else _named(known, wanted)


def _named(known: Mapping[Identifier, str], wanted: str) -> Identifier | None:
    """Return the category of a name, else the only one whose name differs in case."""
    for name_of in (str, str.casefold):
        found = [number for number, name in known.items() if name_of(name) == name_of(wanted)]
        if len(found) == 1:
            return found[0]
    return None


def _people(names: Mapping[Identifier, str], counts: Mapping[Identifier, int]) -> Identifier | None:
    if names:
        return next(iter(names)) if len(names) == 1 else _named(names, _PERSON)
    if len(counts) == 1:
        return next(iter(counts))
    return _COCO_PERSON if _COCO_PERSON in counts and 0 not in counts else None


def _listed(known: Mapping[Identifier, str], counts: Mapping[Identifier, int]) -> str:
    most = sorted(known, key=lambda number: -counts.get(number, 0))
    shown = [f"{_label(number, known)} ({counts.get(number, 0):,} entries)" for number in most]
    more = [f"{len(shown) - _MOST_LISTED} more"] if len(shown) > _MOST_LISTED else []
    return ", ".join(shown[:_MOST_LISTED] + more)


def _label(number: Identifier, known: Mapping[Identifier, str]) -> str:
    return f"{number} {known[number]}".strip()
