"""Batches on their way to the training device, with the next one in flight."""

from collections.abc import Iterable, Iterator

import torch

from pipeline.data.batch import Batch


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on the device; on a GPU the next is copied while the last is computed on.

    On CPU they pass as they come, and none is asked for ahead.
    """
    if device.type != "cuda":
        yield from batches
        return
    # Kernels run in order within a stream, so copies need one of their own to overlap.
    stream, waiting = torch.cuda.Stream(device), None
    for batch in batches:
        sent = _sent(batch, stream)
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = sent
    if waiting is not None:
        yield _arrived(*waiting)


def _sent(batch: Batch, stream: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
    """Start copying; only from page-locked memory does a copy not hold up the host."""
    with torch.cuda.stream(stream):
        moving = batch.changed(
            lambda tensor: tensor.pin_memory().to(stream.device, non_blocking=True)
        )
        return moving, stream.record_event()


def _arrived(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Let what is computed from here on wait for the copy, on the device and not here."""
    current = torch.cuda.current_stream(batch.images.device)
    current.wait_event(copied)

    def used(tensor: torch.Tensor) -> torch.Tensor:
        # Else the copying stream might take its memory again while it is read.
        tensor.record_stream(current)
        return tensor

    return batch.changed(used)
