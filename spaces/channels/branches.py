"""Branches that the example did not take: code that runs for another batch, another size or in training only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from spaces.channels.labels.trace import WHOLE
from spaces.cloning.clone import clone
from spaces.execution.batch import Nested, describe, first_tensor_of, map_tensors, repeat
from spaces.execution.code_places import place_of, running_line
from spaces.execution.comparison import eager
from spaces.execution.forward import Forward
from spaces.execution.hooks import temporary_hooks
from spaces.layers.call_masks import makes_tensors, name_of
from spaces.layers.layer_kind import kind_of
from spaces.layers.split_attention import of_torch

_DRAWS = frozenset("dropout bernoulli bernoulli_ rand randn rand_like randn_like uniform_ normal normal_ multinomial".split())
_SCALING = frozenset(
    "empty new_empty zeros new_zeros ones new_ones full new_full empty_like add add_ sub sub_ mul mul_ div div_ floor floor_ "
    "exp __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ true_divide to type".split()
)
"""Functions that noise is drawn and scaled by."""
_LARGE = 128 * 128
"""Places of an input above which it is halved, not doubled, to try another size (ours)."""
_NAMED = 5

Call = tuple[str, str, tuple[str, int] | None]
"""Running module, function (empty for the beginning of a module's call), and line of the network's code."""

Place = tuple[bool, str]
"""False for a line that did not run on the example, and the line in words."""


def untried_branches(model: nn.Module, inputs: Nested, forward: Forward) -> list[str]:
    """Return a remark for every way of running ``model`` in which modules run other code than on ``inputs``.

    Tried once each, where the network allows it: a batch of two, training mode, and inputs of another size.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        forward: How ``model`` is run on it.
    """
    tried = clone(model)
    base = _run(tried.eval(), inputs, forward)
    if base is None:
        return []
    pair = repeat(inputs, 2)
    trained = _differing(base, _run(tried.train(), pair, forward), training=True)
    # What differs for two samples in training may differ for two samples in any mode.
    paired = {} if trained == {} else _differing(base, _run(tried.eval(), pair, forward)) or {}
    found = _told(paired, "for a batch of two samples")
    found += _told({name: line for name, line in (trained or {}).items() if name not in paired}, "in training")
    for sized in _other_sizes(inputs):
        differing = _differing(base, _run(tried.eval(), sized, forward))
        if differing is not None:
            return found + _told(differing, f"for inputs of {describe(sized)}")
    return found


def _run(model: nn.Module, inputs: Nested, forward: Forward) -> _Record | None:
    """Return the calls of one run; None if ``model`` does not run on ``inputs``."""
    record = _Record()
    try:
        with torch.no_grad(), eager(), temporary_hooks(record.hooks(model)), record:
            forward(model, map_tensors(Tensor.clone, inputs))
    except Exception:
        return None
    return record


def _other_sizes(inputs: Nested) -> Iterator[Nested]:
    """Yield inputs of another height and width, and of another length where there is one dimension before the last.

    All entries change alike, so that a mask keeps to the tokens that it is of.
    """
    example = first_tensor_of(inputs)
    if example is None or not example.dim():
        return
    first = 2 if example.is_floating_point() else 1
    for dims in [range(first, example.dim()), *([range(1, 2)] if example.dim() == 3 else [])]:
        if len(dims):
            large = example[0].numel() > _LARGE and all(example.shape[dim] % 2 == 0 for dim in dims)
            yield map_tensors(partial(_resized, dims=dims, half=large), inputs)


def _resized(entry: Tensor, dims: range, half: bool) -> Tensor:
    for dim in dims:
        if dim < entry.dim():
            entry = entry.narrow(dim, 0, entry.shape[dim] // 2) if half else torch.cat([entry, entry], dim)
    return entry


def _differing(base: _Record, other: _Record | None, training: bool = False) -> dict[str, Place] | None:
    """Return the modules that run other code, each with a line of it; in training, those that only add noise left out."""
    if other is None:
        return None
    by_module: dict[str, list[Call]] = {}
    for call in dict.fromkeys([*other.calls, *base.calls]):
        # What PyTorch's own modules do in training follows their channels.
        followed = training and call[1] and call[0] in base.of_torch
        if (call in base.calls) != (call in other.calls) and not followed:
            by_module.setdefault(call[0], []).append(call)
    found = {}
    for module, calls in by_module.items():
        functions = {function for _, function, _ in calls}
        if not (training and functions <= _DRAWS | _SCALING and functions & _DRAWS):
            places = [(call not in other.calls, place_of(*call[2])) for call in calls if call[2] is not None]
            found[module] = min(places, default=(True, ""))
    return found


class _Record(TorchFunctionMode):
    """Keeps the calls of a run, each once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[Call, None] = {}
        self.of_torch: set[str] = set()
        self._stack: list[str] = []
        self._suspended = 0

    def hooks(self, model: nn.Module) -> Iterator[RemovableHandle]:
        """Yield hooks that follow the running modules."""
        for name, module in model.named_modules():
            if of_torch(module):
                self.of_torch.add(name or WHOLE)
            kind = kind_of(module)
            whole = kind is not None and not kind.functions
            yield module.register_forward_pre_hook(self._enter(name or WHOLE, whole))
            yield module.register_forward_hook(self._leave(whole))

    def _enter(self, name: str, whole: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._stack.append(name)
            if not self._suspended:
                self._keep("")
            self._suspended += whole

        return hook

    def _leave(self, whole: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._stack.pop()
            self._suspended -= whole

        return hook

    def _keep(self, function: str) -> None:
        line = running_line()
        # Generated code is written anew for every mode.
        line = None if line is None or line[0].startswith("<") else line
        self.calls[self._stack[-1] if self._stack else WHOLE, function, line] = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self._suspended and makes_tensors(func, output) and _has_values(args, output):
            self._keep(name_of(func))
        return output


def _has_values(args: Any, output: Any) -> bool:
    """Return True if a call reads or returns a tensor with dimensions, so that counters, which have no channels, are none.

    The number of values does not tell: of a batch of one there may be one, and of a batch of two two.
    """
    for one in (output, *args):
        for leaf in one if isinstance(one, tuple | list) else (one,):
            if isinstance(leaf, Tensor) and leaf.dim():
                return True
    return False


def _told(differing: dict[str, Place], when: str) -> list[str]:
    """Return a remark on the modules that differ, parts of a module that differs left out."""
    names = [
        name for name in sorted(differing) if not any(name.startswith(f"{other}.") for other in differing if other != WHOLE)
    ]
    if not names:
        return []
    told = []
    for name in names[:_NAMED]:
        _, line = min(place for other, place in differing.items() if f"{other}.".startswith(f"{name}."))
        told.append(f"{name} (at {line})" if line else name)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [
        f"{', '.join(told)}{more}: other code runs {when} than for the example, and channels were not followed through it; "
        "give an example that takes it, or exclude the layers around it"
    ]
