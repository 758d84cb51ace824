"""Multiply-accumulates of a forward pass, counted operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from spaces.execution.hooks import temporary_hooks
from spaces.execution.operator_mode import OperatorMode, Unfused
from spaces.layers.layer_kind import kind_of
from spaces.layers.operator_macs import operator_macs

FLOAT_BITS = 32
"""Bits of a weight or activation that is not quantized."""


class MacsCounter:
    """Multiply-accumulates (half the FLOPs) of one forward pass, over the whole batch, by the innermost running module.

    Counted are the operators of convolutions, matrix products, attention and recurrent layers; of a module whose kind has
    :meth:`~spaces.layers.layer_kind.LayerKind.macs` the number that this returns, in place of its operators. Biases,
    normalisation, activations and pooling are not counted.
    """

    def __init__(self) -> None:
        self._running: list[tuple[str, dict[str, int]]] = [("", {})]

    @property
    def macs(self) -> Mapping[str, int]:
        """Multiply-accumulates by module, in the order in which they ended; modules without any are left out."""
        return self._running[0][1]

    def enter(self, name: str) -> None:
        """Note that the module ``name`` begins to run."""
        self._running.append((name, {}))

    def leave(self, module: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> None:
        """Note that the module entered last has run."""
        name, found = self._running.pop()
        kind = kind_of(module)
        own = None if kind is None else kind.macs(module, args, keywords, output)
        for one, macs in (found if own is None else {name: own}).items():
            self._add(one, macs)

    def operator(self, operator: Any, args: tuple[Any, ...], output: Any) -> None:
        """Count one call of an operator."""
        if macs := operator_macs(operator, args, output):
            self._add(self._running[-1][0], macs)

    def _add(self, name: str, macs: int) -> None:
        found = self._running[-1][1]
        found[name] = found.get(name, 0) + macs

    @contextmanager
    def counting(self, model: nn.Module) -> Iterator[None]:
        """Count the forward passes of ``model`` while the context lasts."""

        def entering(name: str) -> Callable[..., None]:
            return lambda *_: self.enter(name)

        def hooks() -> Iterator[RemovableHandle]:
            for name, module in model.named_modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    yield module.register_forward_pre_hook(entering(name))
                    yield module.register_forward_hook(self.leave, with_kwargs=True)

        with temporary_hooks(hooks()), _Operators(self), Unfused():
            yield


class _Operators(OperatorMode):
    """Counts every operator."""

    def __init__(self, counter: MacsCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = counter

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator and count it."""
        output = func(*args, **kwargs)
        self._counter.operator(func, args, output)
        return output
