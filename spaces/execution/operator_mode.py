"""Modes of PyTorch that see every operator below the layers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class _Dispatch:
    """The dispatch of :class:`OperatorMode`.

    A class apart from the mode: a dispatch that a subclass of torch's mode defines itself is wrapped by torch, for its
    compiler, whose import takes seconds.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.operator(func, args, kwargs or {})

    @abstractmethod
    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the result of an operator that was called while the mode is on.

        Args:
            func: Overload of the operator; to call it runs it.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
        """


class OperatorMode(_Dispatch, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context in which every operator is given to :meth:`operator`, which its subclasses define."""


class Unfused(TorchFunctionMode):
    """Changes nothing, but keeps ``nn.MultiheadAttention`` and ``nn.TransformerEncoderLayer`` from running as one operator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the result of a function."""
        return func(*args, **(kwargs or {}))
