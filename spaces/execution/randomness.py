"""Randomness: global states kept through runs of networks, and draws that depend on a text or a seed alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Leave the global generators of PyTorch, NumPy and Python as they were before the context, whatever draws from them."""
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002


def seed_of(text: str) -> int:
    """Return a seed in [0, 2**48), the same for the same text wherever it is asked for."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def drawn_places(count: int, most: int, seed: int) -> Tensor:
    """Return at most ``most`` of ``count`` places, int64 and ascending: all of them, or those that ``seed`` draws."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].sort().values
