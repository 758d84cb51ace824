"""Multiply-accumulates of the modules that have weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spaces.layers.layer_kind import kind_of

FLOAT_BITS = 32
"""Bits of a weight or activation that is not quantized."""


def module_macs(module: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any], outputs: Any) -> int:
    """Return the multiply-accumulates (half the FLOPs) of one call of ``module``, over the whole batch; 0 for others."""
    kind = kind_of(module)
    return 0 if kind is None else kind.macs(module, inputs, keywords, outputs)
