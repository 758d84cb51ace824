"""Search for the layer at which an ONNX file differs from its network, and for the cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.onnx.session import feeds, open_session
from spaces.execution.batch import Nested
from spaces.execution.comparison import largest_gap
from spaces.execution.forward import arguments
from spaces.quantization.layers import quantized_layers

_VISIBLE = 0.01
"""Difference of a layer's output that is looked for, relative to its largest value."""


class LayerOutputs(nn.Module):
    """A network that returns the outputs of its layers, each called once, instead of its own.

    Attributes:
        names: Paths of the layers, in the order in which they run.
    """

    def __init__(self, module: nn.Module, inputs: Nested) -> None:
        """Run ``module`` on ``inputs`` once, to find the layers."""
        super().__init__()
        self.module = module
        self.names: list[str] = []
        quantized = quantized_layers(module)
        layers = {
            name: part
            for name, part in module.named_modules()
            if name in quantized or (name and not any(True for _ in part.children()))
        }
        inside = tuple(f"{name}." for name in quantized)
        seen: list[str] = []
        self._run({name: part for name, part in layers.items() if not name.startswith(inside)}, inputs, seen.append)
        self.names = [name for name in seen if seen.count(name) == 1]

    def _run(self, layers: dict[str, nn.Module], inputs: Nested, note: Callable[[str], Any]) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}

        def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    note(name)
                    outputs[name] = output

            return hook

        handles = [layer.register_forward_hook(look(name)) for name, layer in layers.items()]
        try:
            self.module(*arguments(inputs)[0])
        finally:
            for handle in handles:
                handle.remove()
        return outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the layers in :attr:`names`."""
        found = self._run({name: self.module.get_submodule(name) for name in self.names}, inputs, lambda name: None)
        return tuple(found[name] for name in self.names)


def first_different(traced: LayerOutputs, content: bytes, inputs: Nested) -> str | None:
    """Return the first layer whose output in ONNX Runtime is visibly another one, None if there is none.

    Args:
        traced: The network with the outputs of its layers.
        content: The same as ONNX.
        inputs: What the module is called with.
    """
    session = open_session(content)
    answers = session.run(None, feeds(session, inputs))
    with torch.no_grad():
        expected = [output.numpy() for output in traced(*arguments(inputs)[0])]
    for name, one, other in zip(traced.names, expected, answers, strict=True):
        if not np.abs(one - other).max() <= _VISIBLE * np.abs(one).max():
            return name
    return None


def oversized_bias(module: nn.Module) -> tuple[str, int] | None:
    """Return (layer, channel) of the first bias that 32 bits do not hold as a multiple of input scale x weight scale."""
    for name, layer in quantized_layers(module).items():
        channel = layer.oversized_bias()
        if channel is not None:
            return name, channel
    return None


def cause_of_difference(path: str, module: nn.Module, inputs: Nested, expected: Sequence[Tensor], tolerance: float) -> str:
    """Return why an ONNX file answers otherwise than its network, as far as it can be told.

    Args:
        path: The file.
        module: The network.
        inputs: What the module is called with.
        expected: The network's outputs for the batch.
        tolerance: Largest accepted difference.
    """
    large = oversized_bias(module)
    if large is not None:
        return (
            f"the bias of channel {large[1]} is out of the 32 bits in which ONNX Runtime keeps it, beside scales of weights "
            "and input as small as there"
        )
    import onnxruntime

    plain = open_session(path, graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    answers = [torch.from_numpy(output) for output in plain.run(None, feeds(plain, inputs))]
    if largest_gap(answers, expected)[0] <= tolerance:
        return f"ONNX Runtime {onnxruntime.__version__} answers as the network does only with its optimizations off"
    return f"ONNX Runtime {onnxruntime.__version__} computes it otherwise, its optimizations apart"
