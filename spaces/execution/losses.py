"""Networks that give their losses themselves: called with inputs and targets in training mode, as torchvision's detectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Supervised:
    """Inputs of a network together with their targets, from which the network computes its losses.

    Attributes:
        inputs: Inputs, as of any batch.
        targets: Targets, any nesting, the last positional argument of the network.
    """

    inputs: Any
    targets: Any


@contextmanager
def losses_mode(model: nn.Module) -> Iterator[None]:
    """Let ``model`` give losses; nothing is changed of a network in training mode.

    One in evaluation mode has its parts in training mode that hold others and are none of PyTorch's own, since these choose
    between losses and answers. Layers, such as BatchNorm and dropout, stay in evaluation mode, and what the network draws is
    the same at every call, so that its losses depend on the batch alone.
    """
    if model.training:
        yield
        return
    parts = [part for part in model.modules() if any(True for _ in part.children())]
    modes = {part: part.training for part in (model, *parts) if not type(part).__module__.startswith("torch.nn.")}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        for part in modes:
            part.training = True
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.default_generator.manual_seed(0)
            if device.type == "cuda":
                torch.cuda.manual_seed(0)
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
