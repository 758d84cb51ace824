"""Zeros that are not there: what stands for the output of a removed module, and vanishes where it is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from spaces.layers.call_masks import name_of

_TORCH: Any = torch
"""PyTorch, whose functions take anything that tells them what to do with it."""

SUMS = frozenset({"add", "radd", "iadd", "sub", "isub"})
ALIKE = frozenset(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout relu gelu silu tanh elu neg abs "
    "leaky_relu mish hardswish contiguous clone detach to float double half bfloat16 type_as div truediv itruediv".split()
)
"""Functions of torch that return zeros of the shape of their first argument for zeros there."""
FACTORS = frozenset({"mul", "rmul", "imul", "multiply"})
MOVES = frozenset(
    "view reshape permute transpose flatten unflatten unsqueeze squeeze expand movedim chunk split unbind getitem narrow roll "
    "flip repeat swapaxes select".split()
)
"""Functions that move elements."""
PRODUCTS = frozenset({"matmul", "bmm"})


class Zero:
    """A tensor of zeros without elements, for the functions of torch.

    Added to a tensor it gives that tensor itself, so that neither a network nor what is exported of it holds the addition.
    Functions that keep zeros as they are give another of its kind; any other function gets a tensor of zeros.

    Args:
        shape: Its shape.
        like: Tensor of its type and device.

    Attributes:
        shape: Its shape.
        dtype: Type of its elements.
        device: Its device.
    """

    def __init__(self, shape: Sequence[int], like: Tensor | Zero) -> None:
        """Keep shape, type and device."""
        self.shape = torch.Size(shape)
        self.dtype: torch.dtype = like.dtype
        self.device: torch.device = like.device
        self.requires_grad = False

    def tensor(self) -> Tensor:
        """Return it as a tensor, of shape :attr:`shape`."""
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or the size of one dimension."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the result of a function of torch that was called with it."""
        kwargs = kwargs or {}
        found = _result(name_of(func).strip("_"), func, list(args), kwargs)
        if found is not NotImplemented:
            return found
        args, kwargs = tree_map(lambda one: one.tensor() if isinstance(one, Zero) else one, (tuple(args), kwargs))
        return func(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return a method of tensors, or another attribute of the tensor of zeros."""
        if name.startswith("__"):
            raise AttributeError(name)
        method = getattr(Tensor, name)
        if not callable(method):
            return getattr(self.tensor(), name)
        return lambda *args, **kwargs: Zero.__torch_function__(method, (), (self, *args), kwargs)

    def __len__(self) -> int:
        """Return the size of the first dimension."""
        return int(self.shape[0])

    def __add__(self, other: Any) -> Any:
        """Return ``other``, or a tensor of its values in the shape of the sum."""
        return _TORCH.add(self, other)

    __radd__ = __iadd__ = __add__

    def __rsub__(self, other: Any) -> Any:
        """Return ``other``, or a tensor of its values in the shape of the difference."""
        return _TORCH.sub(other, self)

    def __sub__(self, other: Any) -> Any:
        """Return ``-other``."""
        return _TORCH.sub(self, other)

    def __mul__(self, other: Any) -> Any:
        """Return zeros."""
        return _TORCH.mul(self, other)

    __rmul__ = __imul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        """Return zeros."""
        return _TORCH.div(self, other)

    def __matmul__(self, other: Any) -> Any:
        """Return zeros."""
        return _TORCH.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        """Return zeros."""
        return _TORCH.matmul(other, self)

    def __neg__(self) -> Any:
        """Return itself."""
        return self

    def __getitem__(self, places: Any) -> Any:
        """Return the zeros at some places."""
        return Zero.__torch_function__(Tensor.__getitem__, (), (self, places))


def _joined(parts: Any, dim: int) -> Any:
    """Return what zeros, and tensors without elements, are when joined; NotImplemented where there is more.

    So a key-value cache of transformers, which begins without elements, takes zeros as they are.
    """
    zeros = [one for one in parts if isinstance(one, Zero)]
    if not all(isinstance(one, Zero) or one.numel() == 0 for one in parts) or not zeros:
        return NotImplemented
    shape = list(zeros[0].shape)
    shape[dim] = sum(one.shape[dim] for one in parts if one.dim() == len(shape))
    return Zero(shape, zeros[0])


def _result(name: str, func: Callable[..., Any], args: list[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the result of a function by its name; NotImplemented for one that needs a tensor."""
    if name == "cat":
        return _joined(args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0))
    first: Any = args[0] if args else kwargs.get("input")
    second: Any = args[1] if len(args) > 1 else kwargs.get("other")
    if name in SUMS and isinstance(second, Zero) and isinstance(first, Tensor | Zero) and first.dim() >= second.dim():
        return first
    if name in SUMS and "sub" not in name and isinstance(first, Zero) and isinstance(second, Tensor | Zero):
        return second if second.dim() >= first.dim() else NotImplemented
    if name in ALIKE and isinstance(first, Zero) and not isinstance(second, Zero):
        return _alike(name, func, first, args[1:], kwargs)
    if name in FACTORS and (isinstance(first, Zero) or isinstance(second, Zero)):
        zero, other = (first, second) if isinstance(first, Zero) else (second, first)
        alike = not isinstance(other, Tensor | Zero)
        return zero if alike else Zero(_TORCH.broadcast_shapes(zero.shape, other.shape), zero)
    if name in MOVES and isinstance(first, Zero):
        moved = func(torch.empty(first.shape, dtype=first.dtype, device="meta"), *args[1:], **kwargs)
        return tree_map(lambda one: Zero(one.shape, first) if isinstance(one, Tensor) else one, moved)
    if name in PRODUCTS and first is not None and second is not None and first.dim() > 1 and second.dim() > 1:
        zero = first if isinstance(first, Zero) else second
        batch = _TORCH.broadcast_shapes(first.shape[:-2], second.shape[:-2])
        return Zero((*batch, first.shape[-2], second.shape[-1]), zero)
    if name == "scaled_dot_product_attention" and len(args) > 2 and isinstance(args[2], Zero):
        return Zero((*args[0].shape[:-1], args[2].shape[-1]), args[2])
    return NotImplemented


def _alike(name: str, func: Callable[..., Any], zero: Zero, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Zero:
    """Return zeros of the same shape, in the type and on the device that the function gives."""
    if name in ("to", "float", "double", "half", "bfloat16", "type_as"):
        return Zero(zero.shape, func(torch.empty(0, dtype=zero.dtype, device=zero.device), *args, **kwargs))
    return zero
