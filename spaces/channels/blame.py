"""Blame: the sliced network is run beside the record of the labelled pass, and the first operator that goes astray is named.

From the labels follows the shape that every tensor of the sliced network must have. A function that fails, or whose result
has another shape, was given a number of channels that code has fixed: the channels that it reads and writes are to blame. Its
result is replaced by one of the right shape, so that a single pass finds all such functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.hooks import RemovableHandle

from spaces.channels.labels.atoms import compact, varying
from spaces.channels.labels.trace import WHOLE, ChannelTrace, TracedCall, TracedTensor, fractions
from spaces.errors import first_line
from spaces.execution.batch import Nested
from spaces.execution.code_places import failed_place, running_place
from spaces.execution.forward import Forward
from spaces.execution.hooks import temporary_hooks
from spaces.layers.call_masks import makes_tensors, name_of
from spaces.layers.layer_kind import kind_of


@dataclass(frozen=True)
class Fault:
    """Channels that the sliced network's code does not follow, with the place in it.

    Attributes:
        reason: Module, code and line.
        labels: Labels of the tensors at the place.
        given: Whole numbers among the arguments of the function that failed, as the sliced network computes them.
    """

    reason: str
    labels: tuple[Tensor, ...]
    given: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Rescaled:
    """A fraction that code computes otherwise in the sliced network, such as the scale of attention from the width of heads.

    Attributes:
        ratio: The fraction in the sliced network over that in the whole one.
        labels: Labels of the tensors that it is applied to.
    """

    ratio: float
    labels: tuple[Tensor, ...]


def find_faults(
    sliced: nn.Module, trace: ChannelTrace, kept: np.ndarray, inputs: Nested, forward: Forward
) -> tuple[list[Fault], list[Rescaled]]:
    """Run ``sliced`` once and return the places where a shape is not what the labels say, and where a fraction is another.

    Args:
        sliced: The sliced network, in evaluation mode.
        trace: Record of the labelled pass of the network that it was sliced from.
        kept: By atom, whether its channel is kept, boolean of shape ``(atoms,)``.
        inputs: Inputs of the labelled pass.
        forward: How the network is run on them.
    """
    comparison = _Comparison(trace, kept)
    try:
        with temporary_hooks(comparison.hooks(sliced)), torch.no_grad(), comparison:
            forward(sliced, inputs)
    except Exception as error:
        comparison.stopped(error)
    return comparison.faults, comparison.rescaled


class _Comparison(TorchFunctionMode):
    """Compares every call with the recorded one of the same place in order, and keeps to the record where both part."""

    def __init__(self, trace: ChannelTrace, kept: np.ndarray) -> None:
        super().__init__()
        self.faults: list[Fault] = []
        self.rescaled: list[Rescaled] = []
        self._calls = trace.calls
        self._sizes = {(size.module, size.attribute): size.atoms for size in trace.sizes}
        self._kept = kept
        self._place = 0
        self._lost = False
        self._suspended = 0
        self._stack: list[str] = []
        self._sliced = nn.Module()

    def hooks(self, sliced: nn.Module) -> Iterator[RemovableHandle]:
        """Yield hooks that follow the running modules."""
        self._sliced = sliced
        for name, module in sliced.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                kind = kind_of(module)
                whole = kind is not None and not kind.functions
                yield module.register_forward_pre_hook(self._enter(name, whole))
                yield module.register_forward_hook(self._leave(whole))

    def _enter(self, name: str, whole: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._stack.append(name)
            if not self._suspended:
                self._begin(name or WHOLE)
            self._suspended += whole

        return hook

    def _leave(self, whole: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._stack.pop()
            self._suspended -= whole

        return hook

    @property
    def _where(self) -> str:
        return (self._stack[-1] or WHOLE) if self._stack else WHOLE

    def _begin(self, where: str) -> None:
        """Find the beginning of a module's call in the record: there both go together again."""
        rest = range(self._place, len(self._calls))
        found = next((place for place in rest if not self._calls[place].function and self._calls[place].where == where), None)
        if found is None:
            self._part()
        else:
            self._lost = self._lost and found == self._place
            if found != self._place:
                self._part()
            self._place, self._lost = found + 1, False

    def _part(self) -> None:
        """Blame the next recorded call: the sliced network does not make it."""
        if not self._lost:
            self._blame(self._around(), running_place())
            self._lost = True

    def _around(self) -> tuple[Tensor, ...]:
        """Return the labels of what the last call returned and the next one reads."""
        before = self._calls[max(0, self._place - 1)]
        after = self._calls[min(self._place, len(self._calls) - 1)]
        return (*(one.labels for one in before.returns if one is not None and one.labels is not None), *after.reads)

    def stopped(self, error: Exception) -> None:
        """Blame the place where the network's own code failed."""
        labels = self._around()
        if not any(bool((compact(one) != 0).any()) for one in labels):
            labels = tuple(label for call in self._calls if call.where == self._where for label in call.reads)
        place = failed_place(error, self._sliced)[1]
        self._blame(labels, place, f"fails once channels are removed: {first_line(error)}")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._suspended:
            return func(*args, **kwargs)
        failed: Exception | None = None
        output: Any = None
        try:
            output = func(*args, **kwargs)
        except Exception as error:
            failed = error
        if self._lost or (failed is None and not makes_tensors(func, output)):
            if failed is not None:
                raise failed
            return output
        call = self._calls[self._place] if self._place < len(self._calls) else None
        if call is None or (call.function, call.where) != (name_of(func), self._where):
            if failed is not None:
                raise failed
            self._part()
            return output
        self._place += 1
        return self._as_recorded(call, (args, kwargs), output, failed)

    def _as_recorded(self, call: TracedCall, arguments: Any, output: Any, failed: Exception | None) -> Any:
        """Return the result of a call, its tensors replaced where they have another shape than the record says."""
        leaves, structure = tree_flatten(output)
        for before, now in zip(call.numbers, fractions(arguments), strict=False):
            if before != now and before:
                self.rescaled.append(Rescaled(now / before, call.reads))
        same = failed is None and structure == call.structure
        expected = [None if one is None else self._shape(one) for one in call.returns]
        if same and all(shape is None or leaf.shape == shape for leaf, shape in zip(leaves, expected, strict=True)):
            return output
        written = tuple(one.labels for one in call.returns if one is not None and one.labels is not None)
        fixed = _fixed(arguments, call)
        problem = _problem(call, fixed)
        if not problem and failed is not None:
            problem = f"fails once channels are removed: {first_line(failed)}"
        given = frozenset(leaf for leaf in tree_flatten(arguments)[0] if type(leaf) is int)
        self._blame((*call.reads, *written, *self._counted(call)), running_place(), problem, given)
        made = [
            None if one is None else torch.zeros(one.shape if shape is None else shape, dtype=one.dtype, device=one.device)
            for one, shape in zip(call.returns, expected, strict=True)
        ]
        return tree_unflatten(made, call.structure)

    def _shape(self, traced: TracedTensor) -> torch.Size | None:
        """Return the shape that a tensor must have in the sliced network; None where the labels do not tell."""
        if traced.labels is None:
            return None
        small = compact(traced.labels)
        wide = [dim for dim, size in enumerate(small.shape) if size > 1]
        if len(wide) > 1:
            return None
        shape = list(traced.shape)
        if wide:
            shape[wide[0]] = int(self._kept[small.reshape(-1).numpy()].sum())
        if traced.beside is not None:
            shape[traced.beside.dim] = int(self._kept[traced.beside.atoms.numpy()].sum())
        return torch.Size(shape)

    def _counted(self, call: TracedCall) -> tuple[Tensor, ...]:
        """Return the labels of the channels whose numbers a recorded call was given."""
        origins = [term.origin for count in call.counts for term in count.terms]
        found = [one.labels if one.labels is not None else self._sizes.get((one.module, one.attribute)) for one in origins]
        return tuple(labels for labels in found if labels is not None)

    def _blame(
        self,
        labels: tuple[Tensor, ...],
        place: str,
        problem: str = "",
        given: frozenset[int] = frozenset(),
    ) -> None:
        where = ": ".join(filter(None, (self._where, place)))
        self.faults.append(Fault(f"{where} {problem or 'does not follow a change of its channels'}", labels, given))


def _fixed(args: Any, call: TracedCall) -> set[int]:
    """Return the numbers of channels among the arguments: those of channels in the result, or those of any others."""
    given = {leaf for leaf in tree_flatten(args)[0] if type(leaf) is int}
    labelled = [(one.shape, one.labels) for one in call.returns if one is not None and one.labels is not None]
    found = {shape[dim] for shape, labels in labelled for dim in varying(labels) if shape[dim] in given}
    return found or {abs(count) for count in call.counts}


def _problem(call: TracedCall, fixed: set[int]) -> str:
    """Return what fixed numbers of channels a function was given, and what to write; empty where there are none."""
    if not fixed:
        return ""
    counts = " and ".join(map(str, sorted(fixed)))
    if call.function in ("view", "reshape", "unflatten", "expand"):
        return f"fixes {counts} channels; write -1"
    if call.function in ("split", "split_with_sizes", "tensor_split"):
        return f"fixes parts of {counts} channels; write chunk({len(call.returns)}, dim)"
    return f"fixes {counts} channels; read them from a tensor's shape"
