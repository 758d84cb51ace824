"""The record of one labelled forward pass: the channels that state tensors and layers follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from spaces.channels.labels.atoms import ChannelAtoms
from spaces.channels.labels.beside import Beside
from spaces.channels.labels.counts import Count
from spaces.channels.labels.masked_calls import MaskedCall
from spaces.channels.labels.pairs import Pairs
from spaces.channels.units import UnitName
from spaces.layers.activation_memory import Activation
from spaces.layers.layer_kind import LayerKind

WHOLE = "the network itself"
"""Name of the network in place of a module's."""


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
        macs: Multiply-accumulates per pair of input and output channel (per output channel where ``groups > 1``), and per
            channel of ``passing``.
        groups: Number of convolution or normalization groups.
        channel_dim: Dimension of the module's input that holds the channels, counted from the end; 0 where none does.
        passing: Atoms of channels that pass through the layer, each alike, of shape ``(size,)``; a single 0 for none.
        runner: Name of the module whose code computes the layer with the layer's weight; None where the layer itself does.
    """

    name: str
    kind: LayerKind
    inputs: Tensor
    outputs: Tensor
    macs: float
    groups: int
    channel_dim: int
    passing: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    runner: str | None = None


@dataclass(frozen=True)
class TracedTensor:
    """A tensor that a call returned.

    Attributes:
        shape: Its shape.
        dtype: Its type.
        device: Where it lies.
        labels: Labels of its elements, of its shape; None where none belongs to a channel.
        beside: Units that it has beside its channels; None where it has none.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    labels: Tensor | None
    beside: Beside | None = None


@dataclass(frozen=True)
class TracedCall:
    """A call of a function of torch, or the beginning of a module's call.

    Attributes:
        function: Name of the function; empty for the beginning of a module's call.
        where: Name of the innermost running module.
        reads: Labels of the tensors that the function was given, of those that have any.
        structure: Structure of the result, in the terms of ``torch.utils._pytree``.
        returns: The tensors in the result; None in place of anything else.
        counts: Numbers of channels among its arguments.
        numbers: Fractions among its arguments.
    """

    function: str
    where: str
    reads: tuple[Tensor, ...] = ()
    structure: Any = None
    returns: tuple[TracedTensor | None, ...] = ()
    counts: tuple[Count, ...] = ()
    numbers: tuple[float, ...] = ()


def fractions(args: Any) -> tuple[float, ...]:
    """Return the fractions among the arguments of a call, in order."""
    return tuple(leaf for leaf in tree_flatten(args)[0] if isinstance(leaf, float))


@dataclass(frozen=True)
class SizeAttribute:
    """An attribute by which code fixes a number of channels, and that follows them once it is set with every cut.

    Attributes:
        module: Name of the module.
        attribute: Name of its attribute, an int, or the place of one in it, such as ``splits[2]``.
        atoms: Atoms of the channels that it counts, int64 of shape ``(size,)``.
    """

    module: str
    attribute: str
    atoms: Tensor


@dataclass
class Scores:
    """Scores of attention: what their size hangs on besides the heads.

    Attributes:
        places: Atoms of the places within heads that queries and keys are multiplied over, int64 of shape ``(size,)``.
        heads: Atoms of the heads.
        queries: Atoms of the rows that write the queries, as the weights that write them are tied; int64 of any shape.
        follows: True if code divides the scores by the square root of the number of places that are there.
    """

    places: Tensor
    heads: Tensor
    queries: Tensor
    follows: bool


@dataclass
class ChannelTrace:
    """The channels, ties and layers found by one labelled forward pass.

    Attributes:
        atoms: All channel atoms, united and frozen as the pass required.
        ties: State tensors' dimensions with the atoms they follow, in the order of first use.
        layers: Layers with weights, one entry per call.
        sizes: Attributes of modules that are set with every cut.
        calls: Calls of functions and modules, in order, those within a layer left out.
        masked: Calls of functions in which removed channels must have no effect.
        units: Atoms that stand for more than a channel each, such as attention heads, with the kind of unit.
        scores: The scores of attentions over places that may go.
        pairs: Atoms that stay as long as two others do.
        macs: Multiply-accumulates of all operators by the module that runs them, those without channels to follow included.
        outputs: By module, the tensors that each of its calls returned, those within a layer left out.
    """

    atoms: ChannelAtoms = field(default_factory=ChannelAtoms)
    ties: list[ChannelTie] = field(default_factory=list)
    layers: list[LayerTrace] = field(default_factory=list)
    sizes: list[SizeAttribute] = field(default_factory=list)
    calls: list[TracedCall] = field(default_factory=list)
    activations: list[Activation] = field(default_factory=list)
    masked: list[MaskedCall] = field(default_factory=list)
    units: list[tuple[UnitName, Tensor]] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)
    macs: Mapping[str, int] = field(default_factory=dict)
    outputs: dict[str, list[tuple[TracedTensor, ...]]] = field(default_factory=dict)
    pairs: Pairs = field(init=False)

    def __post_init__(self) -> None:
        """Begin without pairs."""
        self.pairs = Pairs(self.atoms)
