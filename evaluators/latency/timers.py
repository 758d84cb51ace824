"""Time networks and single layers, one measurement at a time on a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from evaluators.latency.backends.base import Conditions, LatencyError, Program, find_backend
from evaluators.latency.timing import Timing, alone, time_in_turn
from evaluators.training.hardware import processor, torch_threads
from spaces.layers.shapes import LayerShape

LEAST_MILLISECONDS = 1e-4


@dataclass(frozen=True)
class LayerRequest:
    """A layer to time by itself.

    Attributes:
        shape: Kind and sizes of the layer.
        weight_bits: Bits of the weights; 32 for float.
        input_bits: Bits of the input; 32 for float.
        batch_size: Samples in a run.
    """

    shape: LayerShape
    weight_bits: int
    input_bits: int
    batch_size: int

    @property
    def key(self) -> str:
        """Everything that the layer's time depends on, as text."""
        shape = self.shape
        names = ("size", "kernel", "stride", "padding", "dilation")
        parts = [f"{name} {'x'.join(map(str, getattr(shape, name)))}" for name in names]
        channels = f"{shape.kind} {shape.in_channels}>{shape.out_channels}"
        bits = f"bits {self.weight_bits}x{self.input_bits}"
        return " ".join([channels, *parts, f"groups {shape.groups}", bits, f"batch {self.batch_size}"])


class Timer(Protocol):
    """A machine that times programs and layers: this one, or another."""

    def time(self, programs: Sequence[Program], conditions: Conditions) -> list[Timing]:
        """Return the timings of programs, run in turn.

        Raises:
            LatencyError: The machine lacks the backend or the device, or a program fails.
        """
        ...

    def time_layers(self, requests: Sequence[LayerRequest], conditions: Conditions) -> list[float]:
        """Return the milliseconds of layers by themselves.

        Raises:
            LatencyError: The machine lacks the backend or the device, or the backend does not compute with such bits.
        """
        ...

    def machine(self, conditions: Conditions) -> str:
        """Return the name of the machine's processor, or of its GPU if ``conditions`` ask for it."""
        ...


class LocalTimer:
    """A timer on this machine that waits while another measurement runs there."""

    def time(self, programs: Sequence[Program], conditions: Conditions) -> list[Timing]:
        """Return the timings of programs, run in turn."""
        backend = find_backend(conditions.backend)
        backend.require(conditions.device)
        with alone(), torch_threads(conditions.threads):
            runs = [backend.build(one.content, one.inputs, conditions.device, conditions.threads) for one in programs]
            times = time_in_turn(runs, conditions.warmup, conditions.repetitions, conditions.seconds)
        return [Timing.of(found) for found in times]

    def time_layers(self, requests: Sequence[LayerRequest], conditions: Conditions) -> list[float]:
        """Return the median milliseconds of layers, less the time of their surroundings alone."""
        find_backend(conditions.backend).require(conditions.device)
        with alone(), torch_threads(conditions.threads):
            return [_layer_time(request, conditions) for request in requests]

    def machine(self, conditions: Conditions) -> str:
        """Return the name of the processor, or of the GPU if ``conditions`` ask for it."""
        find_backend(conditions.backend).require(conditions.device)
        return torch.cuda.get_device_name() if conditions.device == "cuda" else processor()


def _layer_time(request: LayerRequest, conditions: Conditions) -> float:
    backend, bits = find_backend(conditions.backend), (request.weight_bits, request.input_bits)
    if not backend.supports(conditions.device, *bits):
        raise LatencyError(
            f"latency: a table of layers with {bits[0]}-bit weights needs backend: onnxruntime, which computes with them; got "
            f"backend: {conditions.backend}"
        )
    runs = backend.layer_runs(request.shape, *bits, request.batch_size, conditions.device, conditions.threads)
    times = time_in_turn(runs, conditions.warmup, conditions.repetitions, conditions.seconds)
    whole, *rest = (Timing.of(found).median for found in times)
    return max(whole - sum(rest), LEAST_MILLISECONDS)
