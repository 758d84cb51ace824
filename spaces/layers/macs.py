"""Multiply-accumulates of the modules that have weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

COUNTED = (_ConvNd, nn.Linear, nn.MultiheadAttention)
"""Modules whose multiply-accumulates are counted."""

FLOAT_BITS = 32
"""Bits of a weight or activation that is not quantized."""


def module_macs(module: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any], outputs: Any) -> int:
    """Return the multiply-accumulates (half the FLOPs) of one call of ``module``, over the whole batch; 0 for others."""
    if isinstance(module, _ConvTransposeNd):
        entering: Tensor = inputs[0] if inputs else keywords["input"]
        return entering.numel() * (module.out_channels // module.groups) * prod(module.kernel_size)
    if isinstance(module, _ConvNd):
        return int(outputs.numel()) * (module.in_channels // module.groups) * prod(module.kernel_size)
    if isinstance(module, nn.Linear):
        return int(outputs.numel()) * module.in_features
    if isinstance(module, nn.MultiheadAttention):
        query, key, value = (*inputs, *(keywords[n] for n in ("query", "key", "value") if n in keywords))[:3]
        width = module.embed_dim
        axis = 0 if query.ndim == 2 or not module.batch_first else 1
        targets, sources = query.shape[axis], key.shape[axis]
        batch = query.numel() // (targets * query.shape[-1])
        projections = targets * width * width * 2 + sources * width * (key.shape[-1] + value.shape[-1])
        return int(batch * (projections + 2 * targets * sources * width))
    return 0
