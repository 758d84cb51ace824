"""One forward pass in which the calls of linear layers, and the sums that their outputs end in, are seen."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.hooks import first_tensor, temporary_hooks, with_first
from spaces.layers.linear_map import LinearMap

_SUMS = frozenset(
    {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, operator.add, operator.iadd}
)
_PRODUCTS = frozenset(
    {torch.mul, torch.multiply, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__, Tensor.multiply}
)
_PASSING = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, Tensor.contiguous}
)
"""Functions that return their input in evaluation mode."""


@dataclass(frozen=True)
class Call:
    """A call of a layer in a forward pass.

    Attributes:
        layer: Name of the module.
        number: Number of the call among those of the module, from 0.
    """

    layer: str
    number: int


@dataclass(frozen=True)
class Arguments:
    """Arguments of a layer's call.

    Attributes:
        args: Those by position.
        keywords: Those by name.
    """

    args: tuple[Any, ...]
    keywords: Mapping[str, Any]

    @property
    def inputs(self) -> Tensor:
        """The tensor that the layer reads."""
        first = first_tensor(self.args, self.keywords)
        if first is None:
            raise TypeError("expected a tensor among the arguments of a layer's call, got none")
        return first

    def copy(self) -> Arguments:
        """Return arguments with a copy of :attr:`inputs`, which nothing writes into."""
        return Arguments(*with_first(self.args, self.keywords, Tensor.clone))


@dataclass
class Value:
    """A tensor that is an output of a layer, scaled and shifted channel by channel.

    Attributes:
        call: The call that made it.
        tensor: The tensor.
        scale: Factor of every channel, of shape ``(outputs,)``; None for 1.
        source: The value that it was scaled from; None for the output itself.
        uses: Number of functions that have read it.
    """

    call: Call
    tensor: Tensor
    scale: Tensor | None = None
    source: Value | None = None
    uses: int = 0

    @property
    def exclusive(self) -> bool:
        """True if each value from the output up to this one was read once."""
        return self.uses == 1 and (self.source is None or self.source.exclusive)


class _Stop(BaseException):
    """The end of a pass that has seen all it was made for; no Exception, so that a network's own code lets it through."""


class Passage(TorchFunctionMode):
    """A forward pass in evaluation mode, without gradients, whose layers of interest tell of their calls.

    Args:
        model: The network.
        layers: The layers of interest, by module name.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, LinearMap]) -> None:
        super().__init__()
        self._model = model
        self._layers = layers
        self._calls = dict.fromkeys(layers, 0)
        self._values: dict[int, Value] = {}
        self._quiet = False

    def run(self, forward: Any, batch: Any) -> None:
        """Run the network on a batch, up to :meth:`stop`."""
        try:
            with self._watching(), evaluation_mode(self._model), torch.no_grad(), self:
                forward(self._model, batch)
        except _Stop:
            pass
        finally:
            self._values.clear()

    def stop(self) -> None:
        """End the pass here."""
        raise _Stop

    @abstractmethod
    def called(self, call: Call, arguments: Arguments, output: Tensor) -> bool:
        """Take a call of a layer; return True if the sum that its output ends in is of interest."""

    @abstractmethod
    def summed(self, values: list[Value], result: Tensor) -> None:
        """Take the result of an addition, with those of its two summands that are followed."""

    def read(self, value: Value, function: Any, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        """Take the use of a followed value by a function; nothing by default."""

    def _watching(self) -> AbstractContextManager[None]:
        def seen(name: str) -> Any:
            def hook(module: nn.Module, args: Any, keywords: Any, output: Any) -> None:
                known = first_tensor(args, keywords) is not None and isinstance(output, Tensor) and output.numel()
                if self._quiet or not known:
                    return
                call = Call(name, self._calls[name])
                self._calls[name] += 1
                with self._own():
                    followed = self.called(call, Arguments(args, keywords), output)
                if followed:
                    self._follow(Value(call, output))

            return hook

        return temporary_hooks(
            layer.module.register_forward_hook(seen(name), with_kwargs=True) for name, layer in self._layers.items()
        )

    @contextmanager
    def _own(self) -> Iterator[None]:
        """Overlook functions and layers, which are none of the network's, while the context lasts."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and follow the values that it reads."""
        keywords = kwargs or {}
        result = func(*args, **keywords)
        if self._values and not self._quiet and isinstance(result, Tensor | tuple | list):
            self._function(func, args, keywords, result)
        return result

    def _follow(self, value: Value) -> None:
        self._values[id(value.tensor)] = value

    def _function(self, func: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], result: Any) -> None:
        found = [self._values[id(one)] for one in _tensors(args, keywords) if id(one) in self._values]
        if not found or not any(isinstance(one, Tensor) for one in tree_leaves(result)):
            return
        for value in found:
            value.uses += 1
            self.read(value, func, args, keywords)
        if isinstance(result, Tensor):
            # A function that writes into its input leaves another value in the same tensor.
            self._values.pop(id(result), None)
            if func in _SUMS and _is_sum(args, keywords, result):
                with self._own():
                    self.summed(found, result)
            elif (scaled := self._scaled(found[0], func, args, keywords, result)) is not None:
                self._follow(scaled)

    def _scaled(
        self, value: Value, func: Any, args: tuple[Any, ...], keywords: Mapping[str, Any], result: Tensor
    ) -> Value | None:
        """Return the value that ``result`` is, None where it is no channelwise scaled one."""
        factor: Tensor | None = None
        if result.shape != value.tensor.shape:
            return None
        if func is F.batch_norm:
            norm = norm_arguments(args, keywords)
            if norm.training or norm.running_var is None:
                return None
            factor = (norm.running_var + norm.eps).rsqrt()
            factor = factor if norm.weight is None else factor * norm.weight
        elif func in _PRODUCTS:
            factor = self._factor(value, args)
            if factor is None:
                return None
        elif func not in _PASSING or value.tensor is not _first(args, keywords):
            return None
        scale = value.scale if factor is None else factor if value.scale is None else value.scale * factor
        return Value(value.call, result, scale, value)

    def _factor(self, value: Value, args: tuple[Any, ...]) -> Tensor | None:
        """Return the other factor of a product, of shape ``(outputs,)``; None if it is no parameter with one per channel."""
        other = next((one for one in args if one is not value.tensor), None)
        layer = self._layers[value.call.layer]
        if not isinstance(other, nn.Parameter) or other.dim() > value.tensor.dim():
            return None
        whole = other.reshape((1,) * (value.tensor.dim() - other.dim()) + tuple(other.shape))
        channels = whole.movedim(layer.channel_dim, -1)
        if channels.numel() != channels.shape[-1] or channels.shape[-1] not in (1, layer.outputs):
            return None
        return channels.reshape(-1).expand(layer.outputs)


@dataclass(frozen=True)
class NormArguments:
    """Arguments of ``torch.nn.functional.batch_norm`` behind its input."""

    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5


def norm_arguments(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> NormArguments:
    """Return the arguments of a call of ``torch.nn.functional.batch_norm``."""
    behind = args[1:]
    return NormArguments(*behind, **{name: value for name, value in keywords.items() if name != "input"})


def _tensors(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Iterable[Tensor]:
    return (one for one in tree_leaves((args, dict(keywords))) if isinstance(one, Tensor))


def _first(args: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
    return args[0] if args else keywords.get("input")


def _is_sum(args: tuple[Any, ...], keywords: Mapping[str, Any], result: Tensor) -> bool:
    """Return True for the plain sum of two different tensors of one shape."""
    summands = (*args, *(keywords[name] for name in ("input", "other") if name in keywords))
    tensors = all(isinstance(one, Tensor) and one.shape == result.shape for one in summands)
    return tensors and len(summands) == 2 and summands[0] is not summands[1] and keywords.get("alpha", 1) == 1
