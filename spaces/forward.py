"""Forward pass: the function that runs a network on a batch of inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Forward = Callable[[nn.Module, Tensor], Any]
"""Runs a network on inputs of shape ``(N, ...)`` and returns its outputs."""


def call(model: nn.Module, inputs: Tensor) -> Any:
    """Run ``model`` on one tensor of inputs; the default forward."""
    return model(inputs)
