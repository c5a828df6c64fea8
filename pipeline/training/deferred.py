"""Steps that a GPU judges by itself: their outcome is read late, and a bad one is taken back."""

from collections.abc import Iterable

import torch
from torch import Tensor

from pipeline.pose.shapes import Bool, Float

# Whole numbers of a tensor's size: bits that are multiplied by 0 are gone, where NaN would stay.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Backup:
    """Tensors with a copy of them, saved and restored in a few sweeps over memory."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        # Listed once: walking through a network takes longer than copying. Grouped by dtype,
        # because one sweep handles one.
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor.detach())
        self._live = list(by_dtype.values())
        self._kept = [[torch.empty_like(tensor) for tensor in group] for group in self._live]

    def keep(self) -> None:
        """Copy the tensors."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(kept, live)

    def put_back(self) -> None:
        """Restore the tensors to the last `keep`."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(live, kept)

    def put_back_unless(self, is_good: Bool[Tensor, ""]) -> None:
        """Restore the tensors unless the device finds `is_good`, without the host's knowledge.

        Uses the copies up. The tensors are equal to the bit to themselves, or else to their copies.
        """
        for kept, live in zip(self._kept, self._live, strict=True):
            bits = _BITS[live[0].itemsize]
            mine, theirs = ([tensor.view(bits) for tensor in group] for group in (live, kept))
            torch._foreach_mul_(mine, is_good.to(bits))
            torch._foreach_mul_(theirs, (~is_good).to(bits))
            torch._foreach_add_(mine, theirs)


class LateRead:
    """A row of numbers on its way from the device; the next work is launched meanwhile."""

    def __init__(self, row: Float[Tensor, " number"]) -> None:
        # Into page-locked memory, so that the host need not wait.
        self._row = row.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if row.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def numbers(self) -> list[float]:
        """Wait for the numbers, not for work that was launched after them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[float] = self._row.tolist()
        return numbers
