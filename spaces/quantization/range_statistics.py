"""Observe ranges of weights and activations in one pass and choose the quantization parameters from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from spaces.execution.batch import Nested
from spaces.execution.forward import Forward
from spaces.execution.hooks import first_tensor, temporary_hooks
from spaces.quantization.calibration import ActivationSample, Calibration
from spaces.quantization.fake_quantize import Quantizer
from spaces.quantization.format import QParams
from spaces.quantization.layers import QuantizedLayer, quantized_layers


class RangeStatistics:
    """Quantization parameters of every quantizer for each of its possible bits, and the mean input of every layer.

    Args:
        network: The network with quantizers, which are disabled while it runs; not used afterwards.
        bits: Possible bits of each quantizer, by module path.
        calibration: Method that chooses the parameters.
        forward: Runs the network on a batch.
        batches: Input batches.
        inputs: The batch to use if ``batches`` is empty.
    """

    def __init__(
        self,
        network: nn.Module,
        bits: Mapping[str, Sequence[Any]],
        calibration: Calibration,
        forward: Forward,
        batches: Iterable[Nested],
        inputs: Nested,
    ) -> None:
        """Run the network on all batches and calibrate every quantizer."""
        self._bits = bits
        self._calibration = calibration
        self._means: dict[str, Tensor] = {}
        self._shapes: dict[str, torch.Size] = {}
        observed = self._observe(network, forward, batches, inputs)
        self._qparams: dict[str, dict[int, QParams]] = {
            path: calibration.activation_qparams(seen, bits[path]) for path, seen in observed.items()
        }
        self._weights: dict[str, Tensor] = {}
        for name, layer in quantized_layers(network).items():
            path = f"{name}.weight_quantizer"
            if layer.weight is not None and path in bits:
                self._weights[path] = layer.weight.detach().clone()
                self._qparams[path] = self._weight_qparams(path, layer, layer.weight)

    def _weight_qparams(self, path: str, layer: QuantizedLayer, weight: Tensor) -> dict[int, QParams]:
        quantizer = layer.weight_quantizer
        axis = quantizer.format.axis if quantizer is not None and quantizer.format.axis is not None else 0
        return self._calibration.weight_qparams(weight, axis, self._bits[path])

    def _observe(
        self, network: nn.Module, forward: Forward, batches: Iterable[Nested], inputs: Nested
    ) -> dict[str, ActivationSample]:
        """Run the network in float and return samples of the input of each activation quantizer, by module path."""
        quantizers = {name: module for name, module in network.named_modules() if isinstance(module, Quantizer)}
        observed = {name: ActivationSample() for name, module in quantizers.items() if not module.format.signed}
        layers = quantized_layers(network)
        totals: dict[str, Tensor] = {}
        counts: dict[str, int] = {}

        def look(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
                if (values := first_tensor(args, keywords)) is not None:
                    observed[name].see(values)

            return hook

        def average(name: str, layer: QuantizedLayer) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
                entering = first_tensor(args, keywords)
                if entering is None:
                    return
                values = entering.detach()
                axis = values.dim() - 1 if isinstance(layer, nn.Linear) else 1
                others = [dim for dim in range(values.dim()) if dim != axis]
                total = values.double().sum(others)
                totals[name] = totals[name] + total if name in totals else total
                counts[name] = counts.get(name, 0) + values.numel() // len(total)
                self._shapes[name] = values.shape

            return hook

        looks = (quantizers[name].register_forward_pre_hook(look(name), with_kwargs=True) for name in observed)
        averages = (layer.register_forward_pre_hook(average(name, layer), with_kwargs=True) for name, layer in layers.items())
        for module in quantizers.values():
            module.enabled = False
        network.eval()
        ran = False
        try:
            with temporary_hooks(chain(looks, averages)), torch.no_grad():
                for batch in batches:
                    forward(network, batch)
                    ran = True
                if not ran:
                    forward(network, inputs)
        finally:
            for module in quantizers.values():
                module.enabled = True
        self._means = {name: (total / counts[name]).float() for name, total in totals.items()}
        return observed

    def calibrate(self, prepared: nn.Module, bias_correction: bool) -> None:
        """Set scales and zero points of a network's quantizers, in place.

        Args:
            prepared: The quantized network.
            bias_correction: Whether to correct biases for the mean output error of the quantized weights (Nagel et al.,
                ICCV 2019, arXiv 1906.04721, section 4.2, with measured means).
        """
        layers = quantized_layers(prepared)
        for name, module in prepared.named_modules():
            if isinstance(module, Quantizer) and name in self._qparams:
                qparams = self._qparams[name]
                layer = layers.get(name.rpartition(".")[0])
                if module.format.signed and layer is not None and layer.weight is not None:
                    known = self._weights[name]
                    if known.shape != layer.weight.shape or not torch.equal(known.to(layer.weight.device), layer.weight):
                        qparams = self._weight_qparams(name, layer, layer.weight)
                module.calibrate(qparams)
        for layer in layers.values():
            layer.raise_scales()
        if bias_correction:
            for name, layer in layers.items():
                self._correct_bias(name, layer)

    def _correct_bias(self, name: str, layer: QuantizedLayer) -> None:
        """Subtract from the bias the mean error that quantizing the weights adds to each output channel, borders included."""
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
