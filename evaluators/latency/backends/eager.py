"""Time networks in PyTorch, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from evaluators.latency.backends.base import DeviceName
from evaluators.latency.backends.torch_program import Network, TorchBackend
from evaluators.latency.timing import Run
from spaces.layers.macs import FLOAT_BITS
from spaces.layers.shapes import LayerShape


class Eager(TorchBackend):
    """PyTorch without compilation."""

    label: ClassVar[str] = "PyTorch as it is"

    def ready(self, network: Network) -> Network:
        """Return ``network``."""
        return network

    def supports(self, device: DeviceName, weight_bits: int = FLOAT_BITS, input_bits: int = FLOAT_BITS) -> bool:
        """Return whether the layer is in float: PyTorch computes stored integers in float."""
        return weight_bits == input_bits == FLOAT_BITS

    def layer_runs(
        self, shape: LayerShape, weight_bits: int, input_bits: int, batch_size: int, device: DeviceName, threads: int
    ) -> Sequence[Run]:
        """Return one run: the layer followed by a ReLU."""
        from evaluators.latency.layer_programs import EagerLayer

        layer = EagerLayer(shape)
        return [self.run(layer, layer.inputs(batch_size), device, threads)]
