"""Tracing: which channels of a network belong together, found by running it once on labelled tensors.

Every tensor carries a label per element (see :mod:`spaces.channels.labels`). Operators that only move data run on the
labels as they run on the data, so concatenation, splitting, flattening and channel shuffles are exact by construction;
element-wise operators unite the labels they bring together; layers with weights tie their weight dimensions to labels;
anything else freezes the channels it reads, with its name as the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from spaces.channels.layer_rules import LAYER_RULES, OPAQUE_FUNCTIONS
from spaces.channels.operator_rules import propagate
from spaces.channels.trace import ChannelTrace
from spaces.channels.tracer import Tracer
from spaces.errors import UnsupportedModelError
from spaces.evaluation_mode import evaluation_mode


def trace_channels(model: nn.Module, forward: Callable[[nn.Module, Tensor], Any], inputs: Tensor) -> ChannelTrace:
    """Trace one forward pass in evaluation mode; the outputs are frozen."""
    tracer = Tracer(model)
    with evaluation_mode(model), torch.no_grad(), tracer.following(), _Dispatch(tracer), _Functions(tracer):
        outputs = forward(model, inputs)
    tensors = [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]
    if not tensors:
        raise UnsupportedModelError(
            f"the network returned a {type(outputs).__name__} without a tensor in it; expected a tensor, or tuples, lists "
            "or dicts of tensors: wrap it, or override Task.forward"
        )
    for output in tensors:
        tracer.atoms.freeze(tracer.labels(output), "network output")
    return tracer.trace


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operator below the layers."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self._tracer.suspended:
            propagate(self._tracer, func, args, kwargs or {}, output)
        return output


class _Functions(TorchFunctionMode):
    """Sees the functions that take weights, whole."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = LAYER_RULES.get(func)
        if rule is None and func not in OPAQUE_FUNCTIONS:
            return func(*args, **kwargs)
        tracer = self._tracer
        tracer.suspended = True
        try:
            output = func(*args, **kwargs)
            if rule is not None:
                rule(tracer, output, *args, **kwargs)
            else:
                tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
                tracer.opaque(func.__name__, tensors)
        finally:
            tracer.suspended = False
        return output
