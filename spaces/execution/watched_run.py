"""Watched runs: a forward pass whose random operators draw one value for all elements, and whose reading is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from spaces.execution.operator_mode import OperatorMode

_EVEN = frozenset(
    "rand randn rand_like randn_like uniform uniform_ normal_ exponential_ cauchy_ log_normal_ geometric_ poisson".split()
)
"""Operators that draw elements independently, all from one distribution."""
_STEPS = 32
"""Rounding steps that results in a floating-point type may differ by, and a sixteenth of it in a quantized one (ours)."""
_QUANTIZED = {torch.qint8: 2**-7, torch.quint8: 2**-8, torch.qint32: 2**-31}


class WatchedRun(OperatorMode):
    """Context of one forward pass; two networks that differ in channels only draw the same in it.

    Args:
        foreign: Tensors that must not be read, by name.

    Attributes:
        borrowed: Names of the foreign tensors that were read.
        tolerance: Difference relative to the largest result that the coarsest type among the results accounts for.
    """

    def __init__(self, foreign: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.borrowed: list[str] = []
        self.tolerance = 0.0
        self._foreign = {_storage(tensor): name for name, tensor in (foreign or {}).items() if tensor.numel()}
        self._foreign.pop(0, None)
        self._draws = 0

    def borrowed_message(self) -> str:
        """Return the error for a network that reads tensors of another."""
        names = ", ".join(dict.fromkeys(self.borrowed))
        return (
            f"the sliced network reads {names} of the network that it was made from: code outside its modules holds them, such "
            "as a global variable or a function; hold the module in an attribute instead"
        )

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator, and note what it reads and in which type it answers."""
        if self._foreign:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and (name := self._foreign.get(_storage(leaf))) is not None:
                    self.borrowed.append(name)
        random = torch.Tag.nondeterministic_seeded in func.tags
        output = self._drawn(func, args, kwargs) if random else func(*args, **kwargs)
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.dtype != torch.float64:
                self.tolerance = max(self.tolerance, _tolerance(leaf.dtype))
        return output

    def _drawn(self, func: Any, args: Any, kwargs: Any) -> Any:
        self._draws += 1
        torch.manual_seed(self._draws)
        if (generator := kwargs.get("generator")) is not None:
            kwargs = {**kwargs, "generator": torch.Generator(generator.device).manual_seed(self._draws)}
        name = func.overloadpacket.__name__
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if name in ("bernoulli", "bernoulli_"):
            return func(*args, **kwargs).fill_(1)
        output = func(*args, **kwargs)
        if name == "normal" and any(isinstance(arg, Tensor) for arg in args):
            mean, std = (*args, 1.0)[:2]
            return torch.zeros_like(output) + mean + std * self._value()
        if name in _EVEN and isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            torch.manual_seed(self._draws)
            if generator is not None:
                kwargs["generator"].manual_seed(self._draws)
            single = [output.new_empty(1) if isinstance(arg, Tensor) else arg for arg in args]
            if isinstance(args[0], list | tuple):
                single[0] = [1]
            output.fill_(func(*single, **kwargs).reshape(-1)[0])
        return output

    def _value(self) -> float:
        return float(torch.randn(1, generator=torch.Generator().manual_seed(self._draws)))


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


def _tolerance(dtype: torch.dtype) -> float:
    return _STEPS * torch.finfo(dtype).eps if dtype.is_floating_point else _STEPS / 16 * _QUANTIZED.get(dtype, 0.0)
