"""Prefetch: copying the next batch to the training device during a step."""

from collections.abc import Iterable, Iterator

import torch

from pipeline.data.batch import Batch


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on the device. A GPU copies the next one ahead; a CPU reads none ahead."""
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
    """Start a copy that does not block the host, which takes page-locked memory."""
    with torch.cuda.stream(stream):
        # A no-op for what the loader has decoded into such memory.
        moving = batch.changed(
            lambda tensor: tensor.pin_memory().to(stream.device, non_blocking=True)
        )
        return moving, stream.record_event()


def _arrived(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """Make the kernels that follow wait for the copy, without blocking the host."""
    current = torch.cuda.current_stream(batch.images.device)
    current.wait_event(copied)

    def used(tensor: torch.Tensor) -> torch.Tensor:
        # Else the copying stream might reuse its memory while it is read.
        tensor.record_stream(current)
        return tensor

    return batch.changed(used)
