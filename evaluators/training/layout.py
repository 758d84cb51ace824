"""Set the memory layout of a network for the time of its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from spaces.execution.hooks import temporary_hooks, with_first


@contextmanager
def channels_last(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Put ``model`` in channels-last layout inside the context, if ``wanted`` and the model has 2-d convolutions.

    Inside, strided 1x1 convolutions run as a subsampling and an unstrided convolution, with equal outputs: in this layout the
    backward pass of strided ones writes past its memory on CPUs for some narrow widths of pruned layers (seen in torch 2.15:
    7 to 14 channels at 28 pixels).
    """
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not wanted or not convolutions:
        yield
        return
    strided = [module for module in convolutions if _is_strided_pointwise(module)]
    strides = [module.stride for module in strided]
    with temporary_hooks(module.register_forward_pre_hook(_Subsample(module.stride), with_kwargs=True) for module in strided):
        model.to(memory_format=torch.channels_last)
        try:
            for module in strided:
                module.stride = (1, 1)
            yield
        finally:
            for module, stride in zip(strided, strides, strict=True):
                module.stride = stride
            model.to(memory_format=torch.contiguous_format)


def _is_strided_pointwise(module: nn.Conv2d) -> bool:
    return module.kernel_size == (1, 1) and module.stride != (1, 1) and module.padding == (0, 0)


class _Subsample:
    """A hook that keeps every ``stride``-th position of a convolution's input, of shape ``(N, C, H, W)``."""

    def __init__(self, stride: Any) -> None:
        self.rows, self.columns = stride

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return with_first(args, keywords, lambda inputs: inputs[..., :: self.rows, :: self.columns])
