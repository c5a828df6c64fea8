"""What one rank may ask of all, and how they come to do it at the same step."""

from enum import IntFlag

import torch
import torch.distributed as dist


class Signal(IntFlag):
    """What all ranks do together after a step."""

    NONE = 0
    CHECKPOINT = 1
    STOP = 2
    # Ask the cluster whether a node is about to be taken away, which all ranks must do together.
    ASK = 4


class Agreement:
    """Brings the wishes of all ranks together, a step after they were made, and never holds a step up.

    Every rank must call `after_step` after each of its steps.
    """

    def __init__(self, workers: int) -> None:
        # Gloo's threads carry a few bytes while the network computes; NCCL would wait for its kernels.
        self._group = dist.new_group(backend="gloo") if workers > 1 else None
        self._wishes: torch.Tensor | None = None
        self._sent: dist.Work | None = None

    def after_step(self, wish: Signal) -> Signal:
        """Send this rank's wish; return what any rank wished a step ago, the same on every rank."""
        if self._group is None:
            return wish
        agreed = Signal.NONE
        if self._sent is not None and self._wishes is not None:
            self._sent.wait()
            agreed = Signal(int(self._wishes))
        self._wishes = torch.tensor(int(wish))
        self._sent = dist.all_reduce(
            self._wishes, op=dist.ReduceOp.BOR, group=self._group, async_op=True
        )
        return agreed
