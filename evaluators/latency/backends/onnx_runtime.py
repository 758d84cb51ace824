"""Time networks in ONNX Runtime, with integers for quantized ones."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import ClassVar

from torch import nn

from evaluators.latency.backends.base import Backend, DeviceName, LatencyError
from evaluators.latency.timing import Run, clock
from evaluators.onnx.session import feeds, open_session
from evaluators.onnx_export import onnx_bytes
from spaces.execution.batch import Nested
from spaces.layers.macs import FLOAT_BITS
from spaces.layers.shapes import LayerShape

_PROVIDERS: dict[DeviceName, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime(Backend):
    """ONNX Runtime, on the CPU or on a GPU with the package onnxruntime-gpu."""

    label: ClassVar[str] = "ONNX Runtime"
    devices: ClassVar[tuple[DeviceName, ...]] = ("cpu", "cuda")

    def version(self) -> str:
        """Return the version of ONNX Runtime."""
        return version("onnxruntime")

    def export(self, module: nn.Module, inputs: Nested) -> bytes:
        """Return an ONNX file for batches of the size of ``inputs``.

        Raises:
            ExportError: The network can't be exported, or ONNX Runtime does not load the file.
        """
        return onnx_bytes(module, inputs)

    def build(self, content: bytes, inputs: Nested, device: DeviceName, threads: int) -> Run:
        """Return a run of an ONNX file; a run ends when its outputs are in the CPU's memory, on any device."""
        session = open_session(content, threads, _PROVIDERS[device])
        feed = feeds(session, inputs)
        return clock(lambda: session.run(None, feed), threads)

    def require(self, device: DeviceName) -> None:
        """Check that ONNX Runtime computes on ``device``.

        Raises:
            LatencyError: ONNX Runtime has no GPU.
        """
        if device == "cpu":
            return
        import onnxruntime

        if _PROVIDERS[device] not in onnxruntime.get_available_providers():
            raise LatencyError(
                "latency.device: cuda in ONNX Runtime needs the package onnxruntime-gpu, and this one computes on "
                f"{', '.join(onnxruntime.get_available_providers())}; install it, or set device: cpu or backend: eager"
            )

    def supports(self, device: DeviceName, weight_bits: int = FLOAT_BITS, input_bits: int = FLOAT_BITS) -> bool:
        """Return whether ``device`` is the CPU; all bits run there."""
        return device == "cpu"

    def layer_runs(
        self, shape: LayerShape, weight_bits: int, input_bits: int, batch_size: int, device: DeviceName, threads: int
    ) -> Sequence[Run]:
        """Return runs of a layer in the surroundings of a network, and of the surroundings alone."""
        from evaluators.latency.layer_programs import layer_onnx, layer_run

        contents = [layer_onnx(shape, weight_bits, input_bits, batch_size, present) for present in (True, False)]
        return [layer_run(content, threads) for content in contents]
