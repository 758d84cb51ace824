"""Batches on their way to a GPU while it computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from evaluators.task import Batch
from spaces.execution.batch import map_tensors, to_device


def prefetched(batches: Iterable[Batch], device: torch.device, channels_last: bool) -> Iterator[Batch]:
    """Yield batches, on a GPU each there already: the next one is read and copied from pinned memory while a step runs.

    On other devices they come as they are.

    Args:
        batches: Inputs and targets of every step.
        device: The device of the steps.
        channels_last: Whether images go there in channels-last layout.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying, ahead = torch.cuda.Stream(device), None  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(copying):
            following = tuple(to_device(map_tensors(_pinned, part), device, channels_last) for part in batch)
        if ahead is not None:
            yield _arrived(ahead, copying, device)
        ahead = following
    if ahead is not None:
        yield _arrived(ahead, copying, device)


def _pinned(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory()


def _arrived(batch: Batch, copying: torch.cuda.Stream, device: torch.device) -> Batch:
    """Let the steps' stream wait for a batch, and its memory be kept until they are done with it."""
    computing = torch.cuda.current_stream(device)
    computing.wait_stream(copying)

    def used(tensor: Tensor) -> Tensor:
        tensor.record_stream(computing)
        return tensor

    inputs, targets = (map_tensors(used, part) for part in batch)
    return inputs, targets
