"""What the values of a network's weights and activations are like, seen once, and the steps that fit them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spaces.forward import Forward
from spaces.quantization.calibration import Calibration, Observed
from spaces.quantization.fake_quantize import QParams, Quantizer
from spaces.quantization.layers import QuantizedLayer, quantized_layers


class RangeStatistics:
    """Steps of every quantizer for all bits that it may have, and the mean of every layer's input.

    Args:
        network: The network with quantizers; they are switched off while it is run, and the network is not used afterwards.
        bits: Bits that each quantizer may have, by module path.
        calibration: How ranges are found.
        forward: How the network is run on a batch.
        batches: Input batches.
        inputs: The batch to use where there are none.
    """

    def __init__(
        self,
        network: nn.Module,
        bits: Mapping[str, Sequence[Any]],
        calibration: Calibration,
        forward: Forward,
        batches: Iterable[Tensor],
        inputs: Tensor,
    ) -> None:
        self._bits = bits
        self._calibration = calibration
        self._means: dict[str, Tensor] = {}
        self._shapes: dict[str, torch.Size] = {}
        observed = self._observe(network, forward, batches, inputs)
        self._steps: dict[str, dict[int, QParams]] = {
            path: calibration.activation_steps(seen, bits[path]) for path, seen in observed.items()
        }
        self._weights: dict[str, Tensor] = {}
        for name, layer in quantized_layers(network).items():
            path = f"{name}.weight_quantizer"
            if layer.weight is not None and path in bits:
                self._weights[path] = layer.weight.detach().clone()
                self._steps[path] = self._weight_steps(path, layer, layer.weight)

    def _weight_steps(self, path: str, layer: QuantizedLayer, weight: Tensor) -> dict[int, QParams]:
        quantizer = layer.weight_quantizer
        axis = quantizer.axis if quantizer is not None and quantizer.axis is not None else 0
        return self._calibration.weight_steps(weight, axis, self._bits[path])

    def _observe(self, network: nn.Module, forward: Forward, batches: Iterable[Tensor], inputs: Tensor) -> dict[str, Observed]:
        """Run the network in float and return what entered each quantizer of an activation, by module path."""
        quantizers = {name: module for name, module in network.named_modules() if isinstance(module, Quantizer)}
        observed = {name: Observed() for name, module in quantizers.items() if not module.signed}
        layers = quantized_layers(network)
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = {}

        def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            return lambda module, args: observed[name].see(args[0])

        def average(name: str, layer: QuantizedLayer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
                values = args[0].detach()
                axis = values.dim() - 1 if isinstance(layer, nn.Linear) else 1
                others = [dim for dim in range(values.dim()) if dim != axis]
                total = values.double().sum(others)
                totals[name] = totals[name] + total if name in totals else total
                counts[name] = counts.get(name, 0) + values.numel() // len(total)
                self._shapes[name] = values.shape

            return hook

        handles = [quantizers[name].register_forward_pre_hook(look(name)) for name in observed]
        handles += [layer.register_forward_pre_hook(average(name, layer)) for name, layer in layers.items()]
        for module in quantizers.values():
            module.enabled = False
        network.eval()
        ran = False
        try:
            with torch.no_grad():
                for batch in batches:
                    forward(network, batch)
                    ran = True
                if not ran:
                    forward(network, inputs)
        finally:
            for handle in handles:
                handle.remove()
            for module in quantizers.values():
                module.enabled = True
        self._means = {name: (total / counts[name]).float() for name, total in totals.items()}
        return observed

    def calibrate(self, prepared: nn.Module, bias_correction: bool) -> None:
        """Set the steps of a network's quantizers, in place.

        Args:
            prepared: The network, quantized.
            bias_correction: Whether biases take up the mean error of the rounded weights (Nagel et al., ICCV 2019,
                arXiv 1906.04721, section 4.2, with the means measured).
        """
        layers = quantized_layers(prepared)
        for name, module in prepared.named_modules():
            if isinstance(module, Quantizer) and name in self._steps:
                steps = self._steps[name]
                layer = layers.get(name.rpartition(".")[0])
                if module.signed and layer is not None and layer.weight is not None:
                    known = self._weights[name]
                    if known.shape != layer.weight.shape or not torch.equal(known.to(layer.weight.device), layer.weight):
                        steps = self._weight_steps(name, layer, layer.weight)
                module.calibrate(steps)
        if bias_correction:
            for name, layer in layers.items():
                self._correct_bias(name, layer)

    def _correct_bias(self, name: str, layer: QuantizedLayer) -> None:
        """Let the bias make up for what rounding the weights adds to every output on average; border effects included."""
        if name not in self._means or layer.bias is None or layer.weight is None or layer.weight_quantizer is None:
            return
        mean, shape = self._means[name].to(layer.weight.device), self._shapes[name]
        with torch.no_grad():
            linear = isinstance(layer, nn.Linear)
            view = [-1 if dim == (len(shape) - 1 if linear else 1) else 1 for dim in range(len(shape))]
            typical = mean.reshape(view).expand(1, *shape[1:])
            quantizer, bias = layer.input_quantizer, layer.bias
            layer.input_quantizer = None
            exact, rounding = layer.weight, layer.weight_quantizer
            try:
                changed = layer(typical)
                rounding.enabled = False
                expected = layer(typical)
            finally:
                rounding.enabled = True
                layer.input_quantizer = quantizer
            error = changed - expected
            axis = error.dim() - 1 if linear else 1
            others = [dim for dim in range(error.dim()) if dim != axis]
            bias.sub_(error.mean(others).to(exact.dtype))
