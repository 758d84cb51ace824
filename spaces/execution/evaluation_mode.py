"""Evaluation mode of a network inside a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(model: nn.Module | None) -> Iterator[None]:
    """Put ``model`` and all its parts in evaluation mode, and back in their own modes afterwards; None does nothing."""
    modes = {} if model is None else {module: module.training for module in model.modules()}
    if model is not None:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
