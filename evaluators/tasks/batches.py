"""Sizes of batches, and the samples that are in each."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def whole_batches(available: int, batch_size: int, batches: int) -> tuple[int, int]:
    """Return (number of batches, samples per batch) to measure on: full batches only, as a rest would count like one."""
    size = min(batch_size, available)
    return min(batches, available // size), size


def batch_places(count: int, batch_size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Yield the places of the samples of every batch, int64, as :meth:`.Task.batches` orders them.

    Args:
        count: Number of samples.
        batch_size: Samples per batch.
        generator: Draws the order, and an incomplete batch is dropped; None for the fixed order, with the incomplete batch.
    """
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    end = count if generator is None else count // batch_size * batch_size
    for start in range(0, end, batch_size):
        yield order[start : min(start + batch_size, end)]
