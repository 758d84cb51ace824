"""Channel masking: the dense network in which removed channels have no effect, the reference for every slice.

A channel is removed exactly when nothing reads it: every layer with weights sees zero in its place, and statistics over
channels are taken over the kept ones. (Zeroing weights or scaling factors is not enough: the BN shift survives.)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from spaces.channels.groups import ChannelGroups
from spaces.cloning.clone import clone
from spaces.layers.call_masks import CallMask, CallMasks
from spaces.layers.mask_hooks import remove_masks
from spaces.layers.split_attention import split_attention


def masked_copy(model: nn.Module, groups: ChannelGroups, mask: np.ndarray) -> nn.Module:
    """Return a trainable copy of ``model``, same shapes, in which the channels off ``mask`` have no effect.

    Args:
        model: The network; left unchanged.
        groups: Its channel groups.
        mask: Whole keep-mask, boolean of shape ``(groups.width,)``.
    """
    masked = split_attention(clone(model))
    extended = groups.extended(mask)
    seen: set[tuple[str, str]] = set()
    for layer in groups.layers:
        keep = extended[layer.inputs]
        hook = layer.kind.mask_hook(layer.channel_dim, layer.groups)
        if keep.all() or not layer.channel_dim or hook is None or (layer.name, hook.buffer) in seen:
            continue
        seen.add((layer.name, hook.buffer))
        module = masked.get_submodule(layer.name)
        module.register_buffer(hook.buffer, torch.from_numpy(keep), persistent=False)
        hook.attach(module)
    calls: dict[str, list[CallMask]] = {}
    for call in groups.masked:
        if (own := call.mask(extended)) is not None:
            calls.setdefault(call.module, []).append(own)
    for name, masks in calls.items():
        CallMasks(masks).attach(masked.get_submodule(name))
    return masked


def unmasked(masked: nn.Module) -> nn.Module:
    """Return a copy of a masked network with its own weights and without the masking."""
    plain = clone(masked)
    remove_masks(plain)
    return plain
