"""Tensors of a torch.save file, read without executing anything and without unfolding."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from pipeline.io.unfolding import bound_of


def load_tensors(path: Path) -> Any:
    """Read a file of tensors and containers to the CPU.

    A file of a few bytes may be compressed, name bytes twice, or repeat an element 2**40 times.
    Raises ValueError for such, and an error of any kind for damage.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(PurePosixPath(member.filename).name == "constants.pkl" for member in members):
            raise ValueError("a TorchScript archive, which is code")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed, expected a file as torch.save writes it")
        stored = sum(member.file_size for member in members)
        if stored > size:
            raise ValueError(f"its members have {stored:,} bytes, but the file {size:,}")
    content = torch.load(path, weights_only=True, map_location="cpu")
    stated = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(content))
    if stated > bound_of(size):
        raise ValueError(
            f"its tensors state {stated:,} bytes, expected at most {bound_of(size):,} in a file of "
            f"{size:,}"
        )
    return content


def tensors_in(content: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers, each container once."""
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, Mapping) else value)
