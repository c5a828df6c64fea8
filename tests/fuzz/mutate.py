"""Mutations of files, which Hypothesis chooses: bytes, JSON trees, and arrays."""

import copy
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

_DEEP = 3000
_NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**62, -(2**62), 10**400, 0.5, 1e308, -1e308, 1e-300),
    *(float("nan"), float("inf"), float("-inf")),
    *("", "1", "nan", "x" * 5000, "../../etc/passwd", "/etc/passwd", "a/../b", "C:\\a.jpg"),
    *("\x1b[31m", "a\nb", "\udc80", "=1+1", "\0"),
    *([], {}, [[]], [None], {"a": {}}, [1, 2], [1, 2, 3], [[1, 2]] * 3),
)


@st.composite
def of_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut, flip, repeat and replace parts of some bytes."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.sampled_from([1, 2, 4, 16, 200]))
        change = draw(st.sampled_from(["cut", "flip", "drop", "repeat", "zeros", "insert"]))
        part, before, after = data[at : at + length], data[:at], data[at + length :]
        data = {
            "cut": before,
            "flip": before + bytes(255 - byte for byte in part) + after,
            "drop": before + after,
            "repeat": before + 3 * part + after,
            "zeros": before + bytes(len(part)) + after,
            "insert": before + draw(st.binary(max_size=16)) + part + after,
        }[change]
    return data


@st.composite
def of_json(draw: st.DrawFn, data: bytes) -> bytes:
    """Replace, remove and add values anywhere in a JSON document."""
    tree = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            break
        parent, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["set", "set", "set", "remove", "again", "deep", "add"]))
        if change == "set":
            parent[key] = copy.deepcopy(draw(st.sampled_from(_NASTY)))
        elif change == "remove":
            del parent[key]
        elif change == "again" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif change == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["", "x", "../y", "\x1b"]))] = 1
        elif change == "deep":
            parent[key] = "<deep>"
    text = json.dumps(tree)
    return text.replace('"<deep>"', "[" * _DEEP + "]" * _DEEP).encode("utf-8", "surrogatepass")


def _places(tree: Any) -> Any:
    """Yield every container of a tree with each of its keys."""
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from _places(tree[key])


@st.composite
def of_json_lines(draw: st.DrawFn, data: bytes) -> bytes:
    """Mutate one line of several JSON documents, or their order."""
    lines = data.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    change = draw(st.sampled_from(["line", "line", "line", "twice", "gone"]))
    if change == "line":
        lines[at] = draw(of_json(lines[at]))
    elif change == "twice":
        lines.insert(at, lines[at])
    else:
        del lines[at]
    return b"".join(line + b"\n" for line in lines)


@st.composite
def of_arrays(draw: st.DrawFn, data: bytes) -> bytes:
    """Change shapes, kinds and values of the arrays of an npz, or leave one out."""
    with np.load(io.BytesIO(data)) as stored:
        arrays = dict(stored)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(arrays)))
        changes: dict[str, Callable[[np.ndarray], Any]] = {
            "shorter": lambda a: a[:-1],
            "flat": np.ravel,
            "deeper": lambda a: a[None],
            "empty": lambda a: a[:0],
            "text": lambda a: a.astype(str),
            "bytes": lambda a: a.astype("S"),
            "scalar": lambda a: np.float64(3),
            "transposed": np.transpose,
            "negative": lambda a: -a - 1 if a.dtype.kind in "if" else a,
            "huge": lambda a: np.full_like(a, 2**62) if a.dtype.kind == "i" else a,
            "nan": lambda a: np.full_like(a, np.nan) if a.dtype.kind == "f" else a,
            "narrow": lambda a: a.astype(np.int8) if a.dtype.kind in "if" else a,
            "reversed": lambda a: a[::-1],
        }
        change = draw(st.sampled_from([*sorted(changes), "gone"]))
        if change == "gone":
            del arrays[name]
            if not arrays:
                break
        elif arrays[name].ndim:
            arrays[name] = changes[change](arrays[name])
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@st.composite
def of_text(draw: st.DrawFn, data: bytes) -> bytes:
    """Replace words of a text, such as cells of a table or values of TOML."""
    text = data.decode()
    words = [word for word in text.replace(",", " ").split() if word]
    for _ in range(draw(st.integers(1, 3))):
        word = draw(st.sampled_from(words))
        other = draw(
            st.sampled_from(["", "nan", "-1", "1e400", '"x"', "[", "é", ",", "\n", "0", "="])
        )
        if draw(st.booleans()):
            text = text.replace(word, other, 1)
        else:
            at = draw(st.integers(0, len(text)))
            text = text[:at] + other + text[at:]
    return text.encode()
