"""Call masks: take removed channels out of effect in single calls of functions, in modules that hold more than one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from spaces.layers.mask_hooks import Removable

_OF_LAST = (F.layer_norm, F.rms_norm)
"""Functions whose second argument, ``normalized_shape``, repeats the size of the last dimension."""


@dataclass(frozen=True)
class OperandMask:
    """The channels of one tensor of a call that are kept.

    Attributes:
        leaf: Place of the tensor among the leaves of the arguments, or of the result.
        dim: Dimension of the channels, counted from the end.
        keep: Keep-mask, boolean of shape ``(channels,)``.
    """

    leaf: int
    dim: int
    keep: Tensor

    def fits(self, leaves: Sequence[Any]) -> bool:
        """Return True if the tensor at the place has as many channels as the mask."""
        tensor = leaves[self.leaf] if self.leaf < len(leaves) else None
        return isinstance(tensor, Tensor) and tensor.dim() >= -self.dim and tensor.shape[self.dim] == len(self.keep)

    def zeroed(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` with its removed channels at zero."""
        shape = [1] * tensor.dim()
        shape[self.dim] = len(self.keep)
        return tensor * self.keep.to(tensor.device, tensor.dtype).reshape(shape)

    def gathered(self, tensor: Tensor) -> Tensor:
        """Return the kept channels of ``tensor`` alone."""
        return tensor.index_select(self.dim, self._index(tensor))

    def scattered(self, kept: Tensor) -> Tensor:
        """Return kept channels at their places among all of them, zero elsewhere."""
        shape = list(kept.shape)
        shape[self.dim] = len(self.keep)
        return kept.new_zeros(shape).index_copy(self.dim, self._index(kept), kept)

    def _index(self, tensor: Tensor) -> Tensor:
        return self.keep.nonzero().flatten().to(tensor.device)


@dataclass(frozen=True)
class CallMask:
    """The channels that one call of a function works on.

    Attributes:
        function: Name of the function.
        number: Number of its calls before, in the same run of its module's own code.
        zeroed: Arguments whose removed channels become zero.
        gathered: Arguments that the function is given the kept channels of.
        scattered: Results that hold the kept channels alone, and whose removed channels are zero.
    """

    function: str
    number: int
    zeroed: tuple[OperandMask, ...]
    gathered: tuple[OperandMask, ...]
    scattered: tuple[OperandMask, ...]

    def run(self, function: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Return the result of the call on kept channels."""
        leaves, structure = tree_flatten((args, keywords))
        if not all(one.fits(leaves) for one in (*self.zeroed, *self.gathered)):
            return function(*args, **keywords)
        for one in self.zeroed:
            leaves[one.leaf] = one.zeroed(leaves[one.leaf])
        for one in self.gathered:
            leaves[one.leaf] = one.gathered(leaves[one.leaf])
        args, keywords = tree_unflatten(leaves, structure)
        if self.gathered and function in _OF_LAST:
            size = (leaves[0].shape[-1],)
            if "normalized_shape" in keywords:
                keywords["normalized_shape"] = size
            else:
                args = (args[0], size, *args[2:])
        results, structure = tree_flatten(function(*args, **keywords))
        for one in self.scattered:
            results[one.leaf] = one.scattered(results[one.leaf])
        return tree_unflatten(results, structure)


class CallMasks:
    """The call masks of one module, applied to the functions that its own code calls.

    Args:
        masks: The masks.
    """

    def __init__(self, masks: Sequence[CallMask]) -> None:
        self.masks = tuple(masks)
        self.running: list[_Running] = []

    def attach(self, module: nn.Module) -> None:
        """Register hooks on ``module``, and on its parts, whose code is none of its own."""
        module.register_forward_pre_hook(_Entered(self))
        module.register_forward_hook(_Left(self), always_call=True)
        for part in module.children():
            part.register_forward_pre_hook(_Paused(self))
            part.register_forward_hook(_Resumed(self), always_call=True)


class _Running(TorchFunctionMode):
    """Applies the masks of a module during one of its runs."""

    def __init__(self, masks: Sequence[CallMask]) -> None:
        super().__init__()
        self.paused = 0
        self._masks = {(mask.function, mask.number): mask for mask in masks}
        self._counts: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = name_of(func)
        number = self._counts.get(name, 0)
        mask = self._masks.get((name, number))
        output = func(*args, **kwargs) if mask is None else mask.run(func, args, kwargs)
        if makes_tensors(func, output):
            self._counts[name] = number + 1
        return output


class _CallHook(Removable):
    def __init__(self, masks: CallMasks) -> None:
        self.masks = masks


class _Entered(_CallHook):
    def __call__(self, *_: Any) -> None:
        self.masks.running.append(_Running(self.masks.masks))
        self.masks.running[-1].__enter__()  # type: ignore[no-untyped-call]


class _Left(_CallHook):
    def __call__(self, *_: Any) -> None:
        if self.masks.running:
            self.masks.running.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


class _Paused(_CallHook):
    def __call__(self, *_: Any) -> None:
        if self.masks.running:
            self.masks.running[-1].paused += 1


class _Resumed(_CallHook):
    def __call__(self, *_: Any) -> None:
        if self.masks.running:
            self.masks.running[-1].paused -= 1


def name_of(function: Any) -> str:
    """Return the name of a function of torch."""
    return str(function.__name__)


def makes_tensors(function: Any, output: Any) -> bool:
    """Return whether a call of a function of torch is recorded: it returns tensors, and does not only read an attribute."""
    if isinstance(output, Tensor):
        return name_of(function) != "__get__"
    return isinstance(output, tuple | list) and any(isinstance(leaf, Tensor) for leaf in output)
