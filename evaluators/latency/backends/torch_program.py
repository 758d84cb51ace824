"""Export networks by ``torch.export``, and run them in PyTorch."""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import nn

from evaluators.latency.backends.base import Backend, DeviceName, LatencyError
from evaluators.latency.timing import Run, clock
from evaluators.onnx_export import quiet
from spaces.errors import error_line
from spaces.execution.batch import Nested, to_device
from spaces.execution.forward import arguments

Network = Callable[..., Any]


class TorchBackend(Backend):
    """PyTorch, on programs of ``torch.export``."""

    devices: ClassVar[tuple[DeviceName, ...]] = ("cpu", "cuda")

    def version(self) -> str:
        """Return the version of PyTorch."""
        return version("torch")

    def export(self, module: nn.Module, inputs: Nested) -> bytes:
        """Return a program of ``torch.export`` for batches of the size of ``inputs``, without sample inputs.

        Raises:
            LatencyError: ``torch.export`` fails.
        """
        try:
            with quiet(), torch.no_grad():
                program = torch.export.export(module, arguments(inputs)[0])
                program.example_inputs = None
                buffer = io.BytesIO()
                torch.export.save(program, buffer)
        except Exception as error:
            raise LatencyError(f"latency: torch.export failed ({error_line(error)}); try backend: onnxruntime") from error
        return buffer.getvalue()

    def build(self, content: bytes, inputs: Nested, device: DeviceName, threads: int) -> Run:
        """Return a run of a program of ``torch.export``.

        Raises:
            LatencyError: The program fails on this machine.
        """
        with quiet():
            network = torch.export.load(io.BytesIO(content)).module()
        return self.run(network, inputs, device, threads)

    @abstractmethod
    def ready(self, network: Network) -> Network:
        """Return the form of a network that is timed, such as a compiled one; called once per network."""

    def run(self, network: nn.Module, inputs: Nested, device: DeviceName, threads: int) -> Run:
        """Return a run of ``network`` on ``inputs``, both moved to ``device``.

        Raises:
            LatencyError: The network fails.
        """
        place = torch.device(device)
        given = arguments(to_device(inputs, place))[0]
        called = self.ready(network.to(place))

        def call() -> None:
            with torch.inference_mode():
                called(*given)

        try:
            with quiet():
                call()
        except Exception as error:
            raise LatencyError(
                f"latency: {self.label} on {device} fails on this network ({error_line(error)}); try backend: onnxruntime"
            ) from error
        return clock(call, threads) if place.type == "cpu" else _cuda_clock(call)

    def require(self, device: DeviceName) -> None:
        """Check that PyTorch finds a GPU, if ``device`` asks for one.

        Raises:
            LatencyError: PyTorch finds none.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise LatencyError("latency.device: cuda, and PyTorch finds no GPU here; set device: cpu, or resource: NAME")


def _cuda_clock(call: Callable[[], object]) -> Run:
    """Return a run that times ``call`` on the GPU, from the first kernel's start to the last one's end, gaps included."""

    def run() -> float:
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end))

    return run
