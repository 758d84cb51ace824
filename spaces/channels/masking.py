"""Channel masking: the dense network in which removed channels have no effect, the reference for every slice.

A channel is removed exactly when nothing reads it: every layer with weights sees zero in its place, and a normalization over
channels takes its statistics over the kept ones. (Zeroing weights or scaling factors is not enough: the BN shift survives.)
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channels.groups import ChannelGroups

KEEP = "kept_input_channels"


def masked_copy(model: nn.Module, groups: ChannelGroups, mask: np.ndarray) -> nn.Module:
    """Return a trainable copy of ``model``, same shapes, in which the channels off ``mask`` have no effect.

    Args:
        model: The network; left unchanged.
        groups: Its channel groups.
        mask: Whole keep-mask, boolean of shape ``(groups.width,)``.
    """
    masked = copy.deepcopy(model)
    extended = np.append(mask, True)
    seen: set[str] = set()
    for layer in groups.layers:
        keep = extended[layer.inputs]
        if keep.all() or layer.name in seen or layer.kind == "norm":
            continue
        seen.add(layer.name)
        module = masked.get_submodule(layer.name)
        module.register_buffer(KEEP, torch.from_numpy(keep), persistent=False)
        if layer.kind == "layer_norm" or (layer.kind == "group_norm" and layer.groups == 1):
            module.register_forward_hook(_KeptStatistics(layer.channel_dim))
        elif layer.kind != "group_norm":
            module.register_forward_pre_hook(_KeptInputs(layer.channel_dim))
    return masked


def unmasked(masked: nn.Module) -> nn.Module:
    """Return a copy of a masked network with its own weights and without the masking."""
    plain = copy.deepcopy(masked)
    for module in plain.modules():
        module._buffers.pop(KEEP, None)
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _KeptInputs | _KeptStatistics)]:
                del hooks[key]
    return plain


class _KeptInputs:
    """Zeroes the removed input channels of a layer."""

    def __init__(self, channel_dim: int) -> None:
        self.channel_dim = channel_dim

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        inputs = args[0]
        keep: Tensor = getattr(module, KEEP)
        shape = [1] * inputs.dim()
        shape[self.channel_dim] = len(keep)
        return (inputs * keep.to(inputs.dtype).reshape(shape), *args[1:])


class _KeptStatistics:
    """Replaces the output of a normalization by one over the kept channels; the removed ones become zero."""

    def __init__(self, channel_dim: int) -> None:
        self.channel_dim = channel_dim

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        inputs = args[0]
        keep: Tensor = getattr(module, KEEP)
        index = keep.nonzero().flatten()
        kept = inputs.index_select(self.channel_dim, index)
        stored: list[Tensor | None] = [getattr(module, name, None) for name in ("weight", "bias")]
        weight, bias = (None if tensor is None else tensor[index] for tensor in stored)
        epsilon: Any = module.eps
        if isinstance(module, nn.GroupNorm):
            small = F.group_norm(kept, 1, weight, bias, epsilon)
        else:
            last = kept.movedim(self.channel_dim, -1)
            if isinstance(module, nn.RMSNorm):
                small = F.rms_norm(last, (len(index),), weight, epsilon)
            else:
                small = F.layer_norm(last, (len(index),), weight, bias, epsilon)
            small = small.movedim(-1, self.channel_dim)
        return torch.zeros_like(output).index_copy(self.channel_dim, index, small.to(output.dtype))
