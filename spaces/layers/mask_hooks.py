"""Mask hooks: take removed input channels of a single layer out of effect, without changing a shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spaces.execution.hooks import first_tensor, with_first

KEEP = "kept_input_channels"
"""Buffer of a masked module with its kept input channels, boolean of shape ``(in,)``."""

Normalize = Callable[[nn.Module, Tensor, Tensor | None, Tensor | None, int], Tensor]
"""Normalizes kept channels: module, input, scaling factors, shifts, channel dimension."""


class Removable:
    """A hook that :func:`remove_masks` takes off."""


class MaskHook(Removable, ABC):
    """A hook on a module with a buffer that holds the kept input channels.

    Args:
        channel_dim: Dimension of the module's input that holds the channels, counted from the end.

    Attributes:
        buffer: Name of the buffer.
    """

    def __init__(self, channel_dim: int) -> None:
        self.channel_dim = channel_dim
        self.buffer = KEEP

    @abstractmethod
    def attach(self, module: nn.Module) -> None:
        """Register the hook on ``module``."""


class KeptInputs(MaskHook):
    """Zeroes the removed input channels of a layer."""

    def attach(self, module: nn.Module) -> None:
        """Register the hook before the module's forward pass."""
        module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with the removed channels of the first tensor at zero."""
        keep: Tensor = module.get_buffer(self.buffer)

        def masked(inputs: Tensor) -> Tensor:
            shape = [1] * inputs.dim()
            shape[self.channel_dim] = len(keep)
            return inputs * keep.to(inputs.dtype).reshape(shape)

        return with_first(args, keywords, masked)


class KeptStatistics(MaskHook):
    """Replaces the output of a normalization by one over the kept channels; the removed ones become zero.

    Args:
        channel_dim: Dimension of the module's input that holds the channels, counted from the end.
        normalize: Normalizes the kept channels.
    """

    def __init__(self, channel_dim: int, normalize: Normalize) -> None:
        super().__init__(channel_dim)
        self.normalize = normalize

    def attach(self, module: nn.Module) -> None:
        """Register the hook after the module's forward pass."""
        module.register_forward_hook(self, with_kwargs=True)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> Tensor:
        """Return the output over the kept channels alone, zero elsewhere."""
        inputs = first_tensor(args, keywords)
        if inputs is None:
            return output
        index = module.get_buffer(self.buffer).nonzero().flatten()
        kept = inputs.index_select(self.channel_dim, index)
        stored: list[Tensor | None] = [getattr(module, name, None) for name in ("weight", "bias")]
        weight, bias = (None if tensor is None else tensor[index] for tensor in stored)
        small = self.normalize(module, kept, weight, bias, self.channel_dim)
        return torch.zeros_like(output).index_copy(self.channel_dim, index, small.to(output.dtype))


class KeptColumns(MaskHook):
    """Zeroes the columns of weights that read removed channels, while the module runs; its parameters stay as they are.

    Args:
        channel_dim: Dimension of the module's input that holds the channels, counted from the end.
        part: Name of the map that the weights belong to, one of several in the module.
        weights: Names of the weights, each of shape ``(rows, repeats * channels)``.
    """

    def __init__(self, channel_dim: int, part: str, weights: tuple[str, ...]) -> None:
        super().__init__(channel_dim)
        self.buffer = f"{KEEP}_of_{part}"
        self.weights = weights

    def attach(self, module: nn.Module) -> None:
        """Register the hook before and behind the module's forward pass."""
        module.register_forward_pre_hook(self, with_kwargs=True)
        module.register_forward_hook(self, with_kwargs=True, always_call=True)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], *output: Any) -> None:
        """Hide the parameters behind masked ones before the pass, and give them back behind it, which has an output."""
        own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        keep: Tensor = module.get_buffer(self.buffer)
        for name in self.weights:
            if output:
                setattr(module, name, own[name])
            else:
                columns = keep.repeat(own[name].shape[1] // len(keep))
                vars(module)[name] = own[name] * columns.to(own[name].dtype)


def remove_masks(module: nn.Module) -> None:
    """Remove mask hooks and their buffers from ``module`` and all its parts, in place."""
    for part in module.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, MaskHook):
                    part._buffers.pop(hook.buffer, None)
                if isinstance(hook, Removable):
                    del hooks[key]
