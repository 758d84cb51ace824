"""What a labelled forward pass finds: which tensors follow which channels."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from spaces.channels.labels import ChannelAtoms


@dataclass
class ChannelTie:
    """Dimension ``dim`` of a state tensor follows ``atoms``, one per position."""

    tensor: str
    dim: int
    atoms: Tensor


@dataclass
class LayerTrace:
    """A layer with weights, as it was run.

    Attributes:
        name: Module name.
        kind: ``conv``, ``conv_transpose``, ``linear``, ``norm``, ``layer_norm`` or ``group_norm``.
        inputs: Atoms of the input channels, of shape ``(in,)``.
        outputs: Atoms of the output channels, of shape ``(out,)``.
        macs: Multiply-accumulates per pair of input and output channel (per output channel where ``groups > 1``).
        groups: Number of convolution or normalization groups.
        channel_dim: Dimension of the module's input that holds the channels.
    """

    name: str
    kind: str
    inputs: Tensor
    outputs: Tensor
    macs: float = 0.0
    groups: int = 1
    channel_dim: int = 1


@dataclass
class ChannelTrace:
    """What one labelled forward pass found.

    ``macs`` are the multiply-accumulates of all modules that are counted, those without channels to follow included.
    """

    atoms: ChannelAtoms = field(default_factory=ChannelAtoms)
    ties: list[ChannelTie] = field(default_factory=list)
    layers: list[LayerTrace] = field(default_factory=list)
    macs: float = 0.0
