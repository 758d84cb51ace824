"""The flow of values through one forward pass: which operator reads what, in which calls of which modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary

from spaces.execution.batch import Nested
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, tensors_in
from spaces.execution.hooks import temporary_hooks
from spaces.execution.operator_mode import OperatorMode, Unfused
from spaces.layers.operator_macs import operator_macs
from spaces.residual.additions import is_addition
from spaces.residual.stub import PLAIN, Path


@dataclass(frozen=True)
class Node:
    """A value: the result of an operator, or a source that none made.

    Attributes:
        reads: Numbers of the values that the operator read.
        operator: Its name; empty for a source.
        calls: Numbers of the calls of modules that were running, the outermost first.
        macs: Multiply-accumulates of the operator.
    """

    reads: tuple[int, ...]
    operator: str = ""
    calls: tuple[int, ...] = ()
    macs: int = 0


@dataclass(frozen=True)
class Addition:
    """An addition of two tensors of one shape.

    Attributes:
        sum: Number of the value that it makes.
        terms: Numbers of both values.
        ordinal: Its place among the additions that :func:`~spaces.residual.additions.is_addition` tells.
    """

    sum: int
    terms: tuple[int, int]
    ordinal: int


@dataclass
class Call:
    """A call of a module.

    Attributes:
        name: Name of the module.
        given: Tensors that it was called with, by argument: number of the value, and shape.
        outputs: Structure of what it returned, with the leaf ``{"tensor": number of the value}``; None where a part of it is
            no tensor, plain value, or tuple, list or dict of these.
        shapes: Shape of every tensor returned, by number of the value.
    """

    name: str
    given: Mapping[Path, tuple[int, tuple[int, ...]]]
    outputs: Mapping[str, Any] | None = None
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass
class Flow:
    """The values, additions and calls of one forward pass.

    Attributes:
        nodes: The values, in the order in which they were made.
        additions: The additions, in order.
        calls: The calls of modules, in the order in which they began.
        outputs: Numbers of the values that the network returned.
        parameters: Number of the value of every parameter and buffer that was read, by name.
    """

    nodes: list[Node] = field(default_factory=list)
    additions: list[Addition] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    outputs: frozenset[int] = frozenset()
    parameters: dict[str, int] = field(default_factory=dict)


def record_flow(model: nn.Module, inputs: Nested, forward: Forward) -> Flow:
    """Return the flow of one forward pass in evaluation mode.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        forward: How ``model`` is run on ``inputs``.
    """
    recorder = _Recorder(model)
    with evaluation_mode(model), torch.no_grad(), recorder.calling(model), Unfused(), recorder:
        outputs = forward(model, inputs)
    recorder.flow.outputs = frozenset(recorder.value(tensor) for tensor in tensors_in(outputs))
    return recorder.flow


_KINDS: Mapping[Any, str] = {tuple: "tuple", list: "list", dict: "mapping"}


class _Recorder(OperatorMode):
    """Numbers every value of a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Flow()
        state = (*model.named_parameters(), *model.named_buffers())
        self._names = {id(tensor): name for name, tensor in state}
        self._values: Any = WeakTensorKeyDictionary()
        # By storage, the value that was last written into it in place.
        self._written: Any = WeakIdKeyDictionary()
        self._running: list[int] = []
        self._ordinal = 0

    def value(self, tensor: Tensor) -> int:
        """Return the number of a tensor's value; a new one where no operator made it."""
        found: int | None = self._values.get(tensor)
        if found is None:
            found = self._values[tensor] = self._new(Node(()))
            if (name := self._names.get(id(tensor))) is not None:
                self.flow.parameters[name] = found
        return max(found, self._write(tensor))

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator and number its result."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        reads = [self.value(tensor) for tensor in tensors]
        # What was written in place is read along with the value that it was written into.
        before = [self._values[tensor] for tensor in tensors]
        counted = is_addition(func, args)
        output = func(*args, **kwargs)
        macs = operator_macs(func, args, output)
        number = self._new(Node(tuple(dict.fromkeys([*reads, *before])), str(func), tuple(self._running), macs))
        for tensor in _written(func, args, kwargs):
            self._values[tensor] = number
            if tensor.layout == torch.strided:
                self._written[tensor.untyped_storage()] = number
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._values[leaf] = number
        if counted:
            if args[0].shape == args[1].shape:
                self.flow.additions.append(Addition(number, (reads[0], reads[1]), self._ordinal))
            self._ordinal += 1
        return output

    @contextmanager
    def calling(self, model: nn.Module) -> Iterator[None]:
        """Record the calls of modules while the context lasts."""

        def enter(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                given: dict[Path, Any] = dict(enumerate(args))
                given.update(kwargs)
                tensors = {path: one for path, one in given.items() if isinstance(one, Tensor)}
                self._running.append(len(self.flow.calls))
                self.flow.calls.append(Call(name, {path: (self.value(t), tuple(t.shape)) for path, t in tensors.items()}))

            return hook

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            call = self.flow.calls[self._running.pop()]
            call.outputs = self._structure(output, call.shapes)

        def handles() -> Iterator[RemovableHandle]:
            for name, module in model.named_modules():
                if not isinstance(module, torch.jit.ScriptModule):
                    yield module.register_forward_pre_hook(enter(name), with_kwargs=True)
                    yield module.register_forward_hook(leave)

        with temporary_hooks(handles()):
            yield

    def _structure(self, output: Any, shapes: dict[int, tuple[int, ...]]) -> Mapping[str, Any] | None:
        if isinstance(output, Tensor):
            number = self.value(output)
            shapes[number] = tuple(output.shape)
            return {"tensor": number}
        if isinstance(output, PLAIN):
            return {"value": output}
        kind = _KINDS.get(type(output))
        if kind is None:
            return None
        if kind == "mapping":
            named = {name: self._structure(one, shapes) for name, one in output.items()}
            return None if None in named.values() or not all(isinstance(name, str) for name in named) else {kind: named}
        parts = [self._structure(one, shapes) for one in output]
        return None if None in parts else {kind: parts}

    def _write(self, tensor: Tensor) -> int:
        if tensor.layout != torch.strided:
            return -1
        return int(self._written.get(tensor.untyped_storage(), -1))

    def _new(self, node: Node) -> int:
        self.flow.nodes.append(node)
        return len(self.flow.nodes) - 1


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that an operator writes in place."""
    if not func._schema.is_mutable:
        return []
    given = {argument.name: argument for argument in func._schema.arguments}
    values = {**{argument.name: one for argument, one in zip(func._schema.arguments, args, strict=False)}, **kwargs}
    found: list[Tensor] = []
    for name, value in values.items():
        alias = given[name].alias_info if name in given else None
        if alias is not None and alias.is_write:
            found.extend(leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
    return found
