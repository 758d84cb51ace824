"""Forward pass: the function that runs a network on a batch of inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from spaces.execution.batch import Nested
from spaces.execution.losses import Supervised, losses_mode

Forward = Callable[[nn.Module, Nested], Any]
"""Runs a network on a batch of inputs, a tensor of shape ``(N, ...)`` or any nesting of them, and returns its outputs."""


_WITHOUT = (nn.Module, str, bytes, int, float, complex, type(None), type)
"""Types that hold no output."""


def call(model: nn.Module, inputs: Nested) -> Any:
    """Run ``model`` on a batch of inputs, the default forward.

    A mapping is called as ``model(**inputs)``, a tuple as ``model(*inputs)``, anything else as ``model(inputs)``. Inputs with
    their targets give the losses of a network that computes them itself.
    """
    if isinstance(inputs, Supervised):
        with losses_mode(model):
            positional, keywords = arguments(inputs.inputs)
            return model(*positional, inputs.targets, **keywords)
    positional, keywords = arguments(inputs)
    return model(*positional, **keywords)


def arguments(inputs: Nested) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the keyword arguments that :func:`call` calls a network with."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def tensors_in(value: Any) -> list[Tensor]:
    """Return every tensor in the outputs of a network: in tuples, lists, mappings and plain objects, at any depth."""
    found: list[Tensor] = []
    seen: set[int] = set()

    def look(one: Any) -> None:
        if isinstance(one, Tensor):
            found.append(one)
            return
        if id(one) in seen or isinstance(one, _WITHOUT) or callable(one):
            return
        seen.add(id(one))
        if isinstance(one, Mapping):
            parts: Iterable[Any] = one.values()
        elif isinstance(one, tuple | list | set | frozenset):
            parts = one
        else:
            leaves = tree_leaves(one)
            parts = vars(one).values() if len(leaves) == 1 and leaves[0] is one and type(one).__dictoffset__ else leaves
        for part in parts:
            look(part)

    look(value)
    return found


class in_double(TorchFunctionMode):  # noqa: N801 - a context manager
    """Context in which every function of torch returns float64 in place of other floating-point types.

    A network turned to float64 then runs in it throughout, also where its code casts to float32 or makes floating-point numbers
    of integers, such as ``x.float() / 255`` of bytes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` and return its result with floating-point tensors in float64."""
        return _widened(func(*args, **(kwargs or {})))


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() and value.dtype != torch.float64 else value
    if type(value) in (list, tuple):
        return type(value)(map(_widened, value))
    return value
