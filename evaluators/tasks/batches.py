"""Sizes of batches."""

from __future__ import annotations


def whole_batches(available: int, batch_size: int, batches: int) -> tuple[int, int]:
    """Return (number of batches, samples per batch) to measure on: full batches only, as a rest would count like one."""
    size = min(batch_size, available)
    return min(batches, available // size), size
