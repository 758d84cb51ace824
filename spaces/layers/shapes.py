"""Shape of a layer with weights: all that decides its latency apart from its channels and bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LayerShape:
    """Kind, channels and geometry of a layer in a network that was run once.

    Attributes:
        kind: Kind of computation.
        in_channels: Channels that it reads.
        out_channels: Channels that it writes.
        size: The other dimensions of its input, without the batch: height and width of an image, say.
        kernel: Size of the kernel; empty for a linear layer, as are the next three.
        stride: Steps of the kernel.
        padding: Zeros before and behind every dimension: all before, then all behind.
        dilation: Steps within the kernel.
        groups: Groups of a convolution.
        calls: Number of runs in one pass.
    """

    kind: Literal["conv", "conv_transpose", "linear"]
    in_channels: int
    out_channels: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    calls: int = 1
