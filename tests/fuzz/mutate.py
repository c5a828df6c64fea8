"""Mutations of files, which Hypothesis chooses: bytes, text, JSON, arrays, tensors and URIs."""

import copy
import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
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
def of_tensors(draw: st.DrawFn, data: bytes) -> bytes:
    """Change tensors, numbers and containers of a torch.save file."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(state))
        if not places:
            break
        parent, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["gone", "nasty", "shorter", "deeper", "nan", "whole"]))
        if change == "gone":
            del parent[key]
        elif isinstance(parent[key], torch.Tensor) and change != "nasty":
            value = parent[key]
            parent[key] = {
                "shorter": value[:-1] if value.ndim else value,
                "deeper": value[None],
                "nan": torch.full_like(value, float("nan")) if value.is_floating_point() else value,
                "whole": value.to(torch.int32),
            }[change]
        else:
            parent[key] = copy.deepcopy(draw(st.sampled_from(_NASTY)))
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_WORD = re.compile(rb"[A-Za-z_]{2,}")
_NUMBERS = (
    *(b"", b"-1", b"0", b"nan", b"null", b"1e999", b"99999999999999999999", b"9" * 400),
    *(b'"x"', b"[]", b"{}", b"=1+1"),
)
_WORDS = (b"x", b"", b"id", b"\xff", b"\xc3\xa9", b"../..", b"\x1b[31m", b"\0", b"x" * 5000)
_MARKS = (b"[", b"{", b"<a>" * 1000, b'"', b",", b"\n", b"=", b":", b"&a;", b"<!DOCTYPE a>", b"*a")


@st.composite
def of_text(draw: st.DrawFn, data: bytes) -> bytes:
    """Replace numbers and words of a text, drop lines of it, and insert marks."""
    for _ in range(draw(st.integers(1, 3))):
        change = draw(st.sampled_from(["number", "number", "word", "line", "mark"]))
        if change == "line":
            lines = data.splitlines(keepends=True)
            at = draw(st.integers(0, len(lines)))
            data = b"".join(lines[:at] + lines[at + 1 :])
            continue
        if change == "mark":
            at = draw(st.integers(0, len(data)))
            data = data[:at] + draw(st.sampled_from(_MARKS)) + data[at:]
            continue
        pattern, others = (_NUMBER, _NUMBERS) if change == "number" else (_WORD, _WORDS)
        if found := list(pattern.finditer(data)):
            match = draw(st.sampled_from(found))
            data = data[: match.start()] + draw(st.sampled_from(others)) + data[match.end() :]
    return data


# Letters that a secret may have, and those of one that stands where a host or a path may.
_ANY = "".join(set(map(chr, range(33, 127))) - set("'\"`,<>\\&"))
_PLAIN = "abyz019-._~+"
_SENTENCES = ("{}", "tracking.uri='{}': no answer", "URL({})", '{{"uri":"{}","a":1}}', "a\n{}\nb")


@st.composite
def of_uri(draw: st.DrawFn, data: bytes) -> bytes:
    """Put a secret into one of several URIs, other letters around it, and a sentence around all.

    SECRET stands in the lines for one of any letters, WORD for one of plain letters.
    """
    line = draw(st.sampled_from(data.decode().splitlines()))
    for name, letters in (("SECRET", _ANY), ("WORD", _PLAIN)):
        around = st.text(letters, max_size=4)
        line = line.replace(name, f"{draw(around)}SECRET{draw(around)}")
    scheme, colon, rest = line.partition(":")
    scheme = draw(st.sampled_from([scheme, scheme.upper()]))
    return draw(st.sampled_from(_SENTENCES)).format(f"{scheme}{colon}{rest}").encode()
