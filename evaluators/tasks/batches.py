"""Sizes of batches, and their transfer to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def whole_batches(available: int, batch_size: int, batches: int) -> tuple[int, int]:
    """Return (number of batches, samples per batch) to measure on: full batches only, as a rest would count like one."""
    size = min(batch_size, available)
    return min(batches, available // size), size


def to_device(inputs: Tensor, device: torch.device, channels_last: bool = True) -> Tensor:
    """Return ``inputs`` on ``device``, images of shape ``(N, C, H, W)`` in channels-last layout where asked."""
    if channels_last and inputs.ndim == 4:
        return inputs.to(device, non_blocking=True, memory_format=torch.channels_last)
    return inputs.to(device, non_blocking=True)
