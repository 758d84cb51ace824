"""Layer kinds: all that is known of one kind of layer with weights, behind one interface; the registry is in channels/kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar

from torch import Tensor, nn

from spaces.layers.linear_map import LinearMap
from spaces.layers.mask_hooks import KeptInputs, MaskHook
from spaces.layers.shapes import LayerShape
from spaces.registry import members, resolve

REGISTRY = "spaces.channels.kinds:LAYER_KINDS"
"""Import path of the registry. Resolved when used, so that choosing bits need not know of choosing channels."""


class LayerKind(ABC):
    """One kind of layer: how its channels are traced, cut, masked, counted, scored and quantized.

    A new kind is a subclass in a file of :mod:`spaces.channels.kinds` and a line in its registry. Kinds have no state.

    In all methods ``groups`` is the number of convolution or normalization groups of a layer, and channels are counted.

    Class attributes:
        name: Name in records, such as ``conv``.
        modules: Module types of the kind; a module belongs to the first registered kind that has its type.
        functions: Functions of PyTorch that compute the layer, and that :meth:`trace` answers for. Without any,
            :meth:`trace` answers for the whole call of a module.
        produces: True if the layer writes channels of its own, False if it passes on those it reads, as normalizations do.
        output_dim: Dimension of ``weight`` along which the output channels lie, 0 or 1, where ``groups`` is 1.
        compensable: True if the outputs are linear in the inputs with a ``weight`` of shape ``(out, in, ...)``.
        absorbs_scale: True if every channel is normalized by itself, so that the scale of the layer before has no effect.
        scale: Name of the tensor with a scaling factor for every channel; empty for none.
        statistics: Names of the buffers that a zero channel takes to zero.
        quantized: Import path of the quantized form of every module type that has one.
        follows_beside: True if :meth:`trace` follows the units that its input may have beside channels.
        unquantizable: Reason why modules of the kind are never quantized; empty where :attr:`quantized` decides.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[type[nn.Module], ...]]
    functions: ClassVar[tuple[Callable[..., Any], ...]] = ()
    produces: ClassVar[bool] = True
    output_dim: ClassVar[int] = 0
    compensable: ClassVar[bool] = False
    absorbs_scale: ClassVar[bool] = False
    scale: ClassVar[str] = ""
    statistics: ClassVar[tuple[str, ...]] = ()
    quantized: ClassVar[Mapping[type[nn.Module], str]] = {}
    follows_beside: ClassVar[bool] = False
    unquantizable: ClassVar[str] = ""

    @abstractmethod
    def trace(self, tracker: Any, output: Any, *args: Any, **kwargs: Any) -> None:
        """Tie the layer's weights to the channels it reads and writes, label its output and record the layer.

        Args:
            tracker: The :class:`~spaces.channels.labels.tracker.LabelTracker` of the pass.
            output: Result of the function, or of the module's call where there are no :attr:`functions`.
            *args: Positional arguments of the function or of the module's call.
            **kwargs: Their keyword arguments.
        """

    def sizes(self, inputs: int, outputs: int, groups: int, before: int) -> dict[str, int | tuple[int, ...]]:
        """Return the module attributes that announce new sizes, by name.

        Args:
            inputs: Input channels that are left.
            outputs: Output channels that are left.
            groups: Groups before the cut.
            before: Input channels before the cut.
        """
        return {}

    def macs(self, module: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any], outputs: Any) -> int | None:
        """Return the multiply-accumulates (half the FLOPs) of one call of ``module``, over the whole batch.

        None, the default, where the operators of PyTorch that the module runs tell them
        (:mod:`spaces.layers.operator_macs`).
        """
        return None

    def shape(self, module: nn.Module, inputs: Tensor) -> LayerShape | None:
        """Return all that decides the latency of ``module`` on ``inputs`` of shape ``(1, ...)``; None if it is not measured."""
        return None

    def linear_map(self, module: nn.Module) -> LinearMap | None:
        """Return ``module`` as a matrix on patches of its inputs; None, the default, for a layer that is no such map."""
        return None

    def mask_hook(self, channel_dim: int, groups: int) -> MaskHook | None:
        """Return the hook that takes removed input channels out of effect; None where zeros behind the layer do.

        Args:
            channel_dim: Dimension of the module's input that holds the channels, counted from the end.
            groups: Groups of the layer.
        """
        return KeptInputs(channel_dim)

    def writers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return the tensors that write the output channels, each with its channel dimension: all zero, a channel is zero."""
        return ("weight", self.output_dim if groups == 1 else 0), ("bias", 0)

    def readers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return the tensors that read the input channels, each with its channel dimension; none if each reads its own."""
        return (("weight", 1 - self.output_dim),) if self.produces and groups == 1 else ()

    def filters(self, module: nn.Module, outputs: int, groups: int) -> Tensor:
        """Return the weights of ``module`` as one row per output channel, of shape ``(outputs, weights)``."""
        return module.get_parameter("weight").reshape(outputs, -1)

    @property
    def reads_argument(self) -> bool:
        """True, the default, if the input channels lie in the first tensor that the module is called with."""
        return True

    def shares_statistics(self, groups: int) -> bool:
        """Return True if statistics are taken over all channels, so that a zero among them changes the others."""
        return False


def layer_kinds() -> tuple[LayerKind, ...]:
    """Return all registered kinds, in the order of the registry."""
    return tuple(map(_made, members(resolve(REGISTRY), "layer kind").values()))


@cache
def _made(path: str) -> LayerKind:
    kind: LayerKind = resolve(path)()
    return kind


def kind_of(module: nn.Module) -> LayerKind | None:
    """Return the kind of ``module``, None for a module of no registered kind."""
    return next((kind for kind in layer_kinds() if isinstance(module, kind.modules)), None)
