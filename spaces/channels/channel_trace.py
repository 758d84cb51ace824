"""The record of one labelled forward pass: the channels that state tensors and layers follow."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from spaces.channels.labels import ChannelAtoms
from spaces.layers.layer_kind import LayerKind


@dataclass
class ChannelTie:
    """The channels that one dimension of a state tensor follows.

    Attributes:
        tensor: State name of the parameter or buffer.
        dim: The dimension.
        atoms: One atom per index along it, int64 of shape ``(size,)``.
    """

    tensor: str
    dim: int
    atoms: Tensor


@dataclass
class LayerTrace:
    """A layer with weights, as it was run.

    Attributes:
        name: Module name.
        kind: Kind of the layer.
        inputs: Atoms of the input channels, of shape ``(in,)``.
        outputs: Atoms of the output channels, of shape ``(out,)``.
        macs: Multiply-accumulates per pair of input and output channel (per output channel where ``groups > 1``).
        groups: Number of convolution or normalization groups.
        channel_dim: Dimension of the module's input that holds the channels, counted from the end.
    """

    name: str
    kind: LayerKind
    inputs: Tensor
    outputs: Tensor
    macs: float
    groups: int
    channel_dim: int


@dataclass
class ChannelTrace:
    """The channels, ties and layers found by one labelled forward pass.

    Attributes:
        atoms: All channel atoms, united and frozen as the pass required.
        ties: State tensors' dimensions with the atoms they follow, in the order of first use.
        layers: Layers with weights, one entry per call.
        macs: Multiply-accumulates of all modules that are counted, those without channels to follow included.
    """

    atoms: ChannelAtoms = field(default_factory=ChannelAtoms)
    ties: list[ChannelTie] = field(default_factory=list)
    layers: list[LayerTrace] = field(default_factory=list)
    macs: float = 0.0
