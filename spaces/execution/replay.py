"""Forward passes of networks that begin alike: what runs before the first difference is recorded once, and given back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from spaces.execution.hooks import temporary_hooks

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (int, float, complex, str, bytes, NoneType, torch.dtype, torch.device, torch.memory_format)


@dataclass(frozen=True)
class _Call:
    """A call of a module: its name, the times of its beginning and its end, and a copy of its output where one is kept."""

    name: str
    begin: int
    end: int
    output: Tensor | None


class Recording:
    """Outputs of the modules of a network in one forward pass, as copies.

    Those are recorded that are tensors and fit, in the order in which modules end; others are run again. What is given back
    has the same bits as without a record, but for a rounding where hooks switch a fast path off
    (``nn.TransformerEncoderLayer``).

    Args:
        model: The network, in evaluation mode; left unchanged.
        run: Runs a network on the inputs; they must be the same in every pass, and what a network draws, too.
        most_bytes: Most bytes of the outputs.
    """

    def __init__(self, model: nn.Module, run: Callable[[nn.Module], object], most_bytes: float) -> None:
        """Run the network twice."""
        self._modules, self._tensors = dict(model.named_modules()), _tensors(model)
        # An active mode switches fast paths off, whose outputs are others by a rounding: outputs come from another pass.
        reads = _Reads(model)
        with temporary_hooks(reads.hooks()), reads:
            run(model)
        self._elsewhere = reads.elsewhere
        self._calls: list[_Call] = []
        self._begun: dict[str, int] = {}
        left, self._time = most_bytes, 0
        running: list[int] = []

        def before(name: str) -> Any:
            def hook(module: nn.Module, args: Any) -> None:
                self._time += 1
                self._begun.setdefault(name, self._time)
                running.append(self._time)

            return hook

        def behind(name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: object) -> None:
                nonlocal left
                kept = None
                if name and isinstance(output, Tensor) and output.nbytes <= left:
                    kept = output.clone()
                    left -= kept.nbytes
                self._time += 1
                self._calls.append(_Call(name, running.pop(), self._time, kept))

            return hook

        hooks = [module.register_forward_pre_hook(before(name)) for name, module in self._modules.items()]
        hooks += [module.register_forward_hook(behind(name)) for name, module in self._modules.items()]
        with temporary_hooks(hooks):
            run(model)
        self._calls.sort(key=lambda call: call.begin)
        self._parts = self._owned()

    def _owned(self) -> dict[str, list[str]]:
        """Return, by called module in the order of first calls, itself and the parts in it that are never called."""
        found: dict[str, list[str]] = {name: [] for name in self._begun}
        for name in self._modules:
            owner = name
            while owner not in found and owner:
                owner = owner.rpartition(".")[0]
            found.setdefault(owner, []).append(name)
        return found

    @contextmanager
    def shared_with(self, model: nn.Module) -> Iterator[int]:
        """Let a network take from the record what it has in common with the recorded one; yield the number of such calls.

        In common is what ends before the first call of a module that differs in a tensor of its own, in its type, in the names
        of its parts or in its attributes; nothing, if a tensor differs that code outside of its module reads.

        Args:
            model: The network, in evaluation mode, on the same device.
        """
        modules = dict(model.named_modules())
        end, inside = self._end(modules, _tensors(model)), 0
        given: dict[str, list[Tensor | None]] = {}
        for call in self._calls:
            if call.begin >= end:
                break
            if call.begin < inside:
                continue  # A call around it is given back as a whole.
            kept = call.output if call.end <= end else None
            given.setdefault(call.name, []).append(kept)
            inside = inside if kept is None else call.end
        given = {name: calls for name, calls in given.items() if any(kept is not None for kept in calls)}
        shared = [name for name in given if "forward" not in vars(modules[name])]
        for name in shared:
            modules[name].forward = _given_back(modules[name].forward, given[name])
        try:
            yield sum(kept is not None for name in shared for kept in given[name])
        finally:
            for name in shared:
                del modules[name].forward

    def _end(self, modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> int:
        """Return the time of the first call of what may differ."""
        if not all(name in tensors and _same(self._tensors[name], tensors[name]) for name in self._elsewhere):
            return 0
        for called, parts in self._parts.items():
            if not all(name in modules and _alike(self._modules[name], modules[name]) for name in parts):
                return self._begun.get(called, 0)
        return self._time


class _Reads(TorchFunctionMode):
    """Notes the tensors that are read while another module runs than the one that holds them, unless that is never called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._running: list[str] = []
        self._called: set[str] = set()
        self._names: dict[int, list[str]] = {}
        for name, tensor in _tensors(model).items():
            self._names.setdefault(id(tensor), []).append(name)
        self._readers: dict[str, set[str]] = {}

    def hooks(self) -> Iterator[RemovableHandle]:
        """Yield hooks that follow which module runs."""

        def before(name: str) -> Any:
            def hook(module: nn.Module, args: Any) -> None:
                self._running.append(name)
                self._called.add(name)

            return hook

        def behind(module: nn.Module, args: Any, output: object) -> None:
            self._running.pop()

        for name, module in self._model.named_modules():
            yield module.register_forward_pre_hook(before(name))
            yield module.register_forward_hook(behind)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for one in tree_leaves((args, kwargs or {})):
            for name in self._names.get(id(one), ()):
                self._readers.setdefault(name, set()).add(self._running[-1] if self._running else "")
        return func(*args, **(kwargs or {}))

    @property
    def elsewhere(self) -> set[str]:
        """Names of the tensors."""
        found = set()
        for name, readers in self._readers.items():
            owner = name.rpartition(".")[0]
            while owner not in self._called and owner:
                owner = owner.rpartition(".")[0]
            if readers != {owner}:
                found.add(name)
        return found


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by all their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def _given_back(forward: Callable[..., Any], calls: list[Tensor | None]) -> Callable[..., Any]:
    """Return a forward method that gives recorded outputs in its first calls."""
    waiting = list(reversed(calls))

    def recorded(*args: Any, **keywords: Any) -> Any:
        kept = waiting.pop() if waiting else None
        # What follows may write into the output.
        return forward(*args, **keywords) if kept is None else kept.clone()

    return recorded


def _alike(first: nn.Module, second: nn.Module) -> bool:
    """Return True if two modules are surely the same, but for their children."""
    if type(first) is not type(second):
        return False
    if not _same(*([name for name, _ in one.named_children()] for one in (first, second))):
        return False
    if not _same(*(dict(_own(one)) for one in (first, second))):
        return False
    return _same(*({key: value for key, value in vars(one).items() if key not in _OF_EVERY_MODULE} for one in (first, second)))


def _own(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _same(first: Any, second: Any) -> bool:
    """Return True for values that are surely the same; those of unknown types are so if they are one object."""
    if first is second:
        return True
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
    if type(first) is not type(second):
        return False
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    if is_dataclass(first) and not isinstance(first, type):
        return _same(vars(first), vars(second))
    return isinstance(first, _PLAIN) and bool(first == second)
