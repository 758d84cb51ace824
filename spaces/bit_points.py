"""What every space over bits has: the places where values are quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from spaces.candidate import Candidate
    from spaces.quantization.cost import LayerSizes
    from spaces.quantization.quantizable import QuantizerLocation, Unquantized


@runtime_checkable
class QuantizingSpace(Protocol):
    """A space over the bits of quantized values.

    Attributes:
        points: Every place where values are quantized; those with the same decision have the same bits.
        frozen: What stays in float, and why.
    """

    points: tuple[QuantizerLocation, ...]
    frozen: tuple[Unquantized, ...]

    def extent(self, candidate: Candidate) -> LayerSizes:
        """Return how large the layers are in the network of a candidate."""
        ...
