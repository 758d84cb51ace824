"""The labelled pass: run a network once on labelled tensors and record the channels that belong together.

Every tensor carries a label per element (see :mod:`spaces.channels.labels`). Operators that only move data run on the
labels as they run on the data, so concatenation, splitting, flattening and channel shuffles are exact by construction;
element-wise operators unite the labels they bring together; layers with weights tie their weight dimensions to labels;
anything else freezes the channels it reads, with its name as the reason.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from spaces.channels.kinds.heads import attend
from spaces.channels.labels.counts import counted_attributes
from spaces.channels.labels.heads import HeadViews
from spaces.channels.labels.trace import ChannelTrace, SizeAttribute
from spaces.channels.labels.tracker import LabelTracker
from spaces.channels.rules.operators import propagate
from spaces.channels.rules.sizes import follow_shape, settle, shape_with_counts
from spaces.errors import UnsupportedModelError
from spaces.execution.batch import Nested
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, tensors_in
from spaces.execution.operator_mode import OperatorMode
from spaces.layers.call_masks import makes_tensors, name_of
from spaces.layers.layer_kind import LayerKind, layer_kinds

_SHAPE = Tensor.shape.__get__  # type: ignore[attr-defined]
OPAQUE_FUNCTIONS = frozenset({F.bilinear})
"""Functions with weights that no layer kind answers for."""

PASSES = 3
"""Largest number of labelled passes; every one but the first knows more views that part channels into heads."""


DROPOUTS = frozenset(
    {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
    | {torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout}
)
"""Functions that drop elements or whole channels, and pass on the channels that they read."""


WHOLE_FUNCTIONS = OPAQUE_FUNCTIONS | DROPOUTS | {F.scaled_dot_product_attention}
"""Functions whose result is labelled at once, not operator by operator."""


UNPACKING = "_pad_packed_sequence"
"""Name of the function that puts the steps of sequences, one below the other, in a padded tensor."""


def trace_channels(model: nn.Module, forward: Forward, inputs: Nested) -> ChannelTrace:
    """Record the channels of one forward pass in evaluation mode; those of the outputs are frozen.

    Args:
        model: The network; left unchanged.
        forward: Runs ``model`` on ``inputs``.
        inputs: One batch of a single sample, of shape ``(1, ...)``.

    Raises:
        UnsupportedModelError: The outputs hold no tensor.
    """
    views = HeadViews({})
    for _ in range(PASSES):
        trace = _counted(model, forward, inputs, views)
        if views.found.items() <= views.known.items():
            break
        views = HeadViews({**views.found, **views.known})
    return trace


def _counted(model: nn.Module, forward: Forward, inputs: Nested, views: HeadViews) -> ChannelTrace:
    try:
        with counted_attributes(model):
            return _traced(model, forward, inputs, views)
    except UnsupportedModelError:
        raise
    except Exception:
        # Code may not take a count for a number.
        views.restart()
        return _traced(model, forward, inputs, views, counting=False)


def _traced(model: nn.Module, forward: Forward, inputs: Nested, views: HeadViews, counting: bool = True) -> ChannelTrace:
    tracker = LabelTracker(model, views)
    with evaluation_mode(model), torch.no_grad(), tracker.following(), _Propagation(tracker), _Functions(tracker, counting):
        outputs = forward(model, inputs)
    tensors = tensors_in(outputs)
    if not tensors:
        raise UnsupportedModelError(
            f"the network returned a {type(outputs).__name__} without a tensor in it; expected a tensor, or tuples, lists "
            "or dicts of tensors: wrap it, or override Task.forward"
        )
    for output in tensors:
        tracker.atoms.freeze(tracker.labels(output), "network output")
        if (units := tracker.beside.find(output)) is not None:
            tracker.atoms.freeze(units.atoms, "network output")
    settle(tracker)
    for (module, attribute), labels in tracker.counted.items():
        tracker.trace.sizes.append(SizeAttribute(module, attribute, labels))
    tracker.trace.macs, tracker.trace.activations = tracker.macs.macs, tracker.memory.activations
    tracker.trace.masked.extend(tracker.masking.calls.values())
    return tracker.trace


class _Propagation(OperatorMode):
    """Propagates labels through every operator below the layers, and counts it."""

    def __init__(self, tracker: LabelTracker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracker = tracker

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator and label its result."""
        tracker = self._tracker
        made = len(tracker.memory.activations)
        output = func(*args, **kwargs)
        tracker.memory.operator((args, kwargs), output)
        if not tracker.suspended:
            propagate(tracker, func, args, kwargs, output)
            if isinstance(output, tuple):
                tracker.memory.alike(made, output)
        tracker.macs.operator(func, args, output)
        return output


class _Functions(TorchFunctionMode):
    """Lets the layer kind of every function that takes weights trace the layer."""

    def __init__(self, tracker: LabelTracker, counting: bool) -> None:
        super().__init__()
        self._tracker = tracker
        self._counting = counting
        self._kinds = {function: kind for kind in layer_kinds() for function in kind.functions}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not types or self._tracker.suspended:
            return self._traced(func, args, kwargs)
        # A subclass of Tensor makes its results anew, without labels: the function is run on plain tensors in between.
        plain, spec = tree_flatten((args, kwargs))
        own = [leaf if _is_subclass(leaf) else None for leaf in plain]
        plain = [
            leaf if one is None else self._same(one, leaf.as_subclass(Tensor)) for one, leaf in zip(own, plain, strict=True)
        ]
        positional, keywords = tree_unflatten(plain, spec)
        output = self._traced(func, positional, keywords)
        for one, leaf in zip(own, plain, strict=True):
            if one is not None:
                self._same(leaf, one)
        kind = type(next(one for one in own if one is not None)) if any(one is not None for one in own) else Tensor
        return tree_map(lambda leaf: self._as(leaf, kind), output)

    def _same(self, labelled: Tensor, other: Tensor) -> Tensor:
        """Return ``other`` with the labels of ``labelled``."""
        labels = self._tracker.found(labelled)
        if labels is not None:
            self._tracker.set_labels(other, labels)
        return other

    def _as(self, leaf: Any, kind: Any) -> Any:
        plain = isinstance(leaf, Tensor) and type(leaf) is Tensor and kind is not Tensor
        return self._same(leaf, leaf.as_subclass(kind)) if plain else leaf

    def _traced(self, func: Any, args: Any, kwargs: Any) -> Any:
        kind, tracker = self._kinds.get(func), self._tracker
        if tracker.suspended:
            return func(*args, **kwargs)
        with tracker.masking.call():
            if kind is None and func not in WHOLE_FUNCTIONS and name_of(func) != UNPACKING:
                output = self._run(func, args, kwargs)
            else:
                made = len(tracker.memory.activations)
                with tracker.suspension():
                    output = func(*args, **kwargs)
                    with tracker.memory.pause():
                        self._label(kind, func, args, kwargs, output)
                    tracker.memory.alike(made, (output, *args, *kwargs.values()))
        if makes_tensors(func, output):
            with tracker.memory.pause():
                tracker.called(name_of(func), (args, kwargs), output)
        return output

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function whose operators are labelled one by one; numbers of channels that it returns are counts."""
        tracker, name = self._tracker, name_of(func)
        with tracker.calling(name, (*args, *kwargs.values())):
            output = func(*args, **kwargs)
        if not self._counting:
            return output
        with tracker.suspension(), tracker.memory.pause():
            follow_shape(tracker, name, args, kwargs, output)
            if func == _SHAPE:
                return shape_with_counts(tracker, args[0], output)
            if func is Tensor.size:
                shape = shape_with_counts(tracker, args[0], args[0].shape)
                return shape if isinstance(output, tuple) else shape[args[1] if len(args) > 1 else kwargs["dim"]]
        return output

    def _label(self, kind: LayerKind | None, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Label the result of a function that is traced as a whole."""
        tracker = self._tracker
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        tracker.heads.follow(tensors, output)
        if func is not F.scaled_dot_product_attention and (kind is None or not kind.follows_beside):
            tracker.beside.follow(tracker, name_of(func), tensors, output, func in DROPOUTS)
        if kind is not None:
            args, kwargs = tree_map(tracker.as_stored, (args, kwargs))
            kind.trace(tracker, output, *args, **kwargs)
        elif func is F.scaled_dot_product_attention:
            attend(tracker, output, *args, **kwargs)
        elif name_of(func) == UNPACKING:
            packed = tracker.labels(args[0])
            tracker.set_labels(output[0], packed[0].expand(output[0].shape))
        elif func in DROPOUTS:
            tracker.set_labels(output, tracker.labels(args[0] if args else kwargs["input"]))
        else:
            tracker.opaque(name_of(func), tensors)


def _is_subclass(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and type(leaf) not in (Tensor, nn.Parameter)
