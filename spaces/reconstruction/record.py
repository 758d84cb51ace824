"""Record of a reconstruction, by which the network that is read back keeps its statistics, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spaces.cloning.clone import clone
from spaces.layers.batch_norm import keep_statistics

RECONSTRUCTED: dict[str, Any] = {"kind": "reconstruct"}


def reconstruct(model: nn.Module, record: Mapping[str, Any] = RECONSTRUCTED) -> nn.Module:
    """Return a copy of ``model`` whose statistics of BatchNorm are kept; the solved weights are loaded over it."""
    kept = clone(model)
    keep_statistics(kept)
    return kept
