"""Prepare networks for timing in ONNX Runtime, in PyTorch, or compiled by ``torch.compile``."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from evaluators.latency.timing import Run, clock
from evaluators.onnx.session import open_session
from evaluators.onnx_export import TaskForward, first_line, onnx_bytes, quiet
from evaluators.task import Task
from spaces.errors import SecateursError
from spaces.quantization.record import is_quantized, pack_weights

Backend = Literal["onnxruntime", "eager", "compile"]
DeviceName = Literal["cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class LatencyError(SecateursError):
    """A network can't be timed under the given conditions."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of a timing.

    Attributes:
        backend: Runtime.
        device: Device of the runtime.
        threads: Threads of a run on the CPU.
        warmup: Untimed runs before the timed ones.
        repetitions: Timed runs.
        seconds: Seconds after which no more runs are begun.
    """

    backend: Backend = "onnxruntime"
    device: DeviceName = "cpu"
    threads: int = 1
    warmup: int = 10
    repetitions: int = 100
    seconds: float = 5.0


@dataclass(frozen=True)
class Program:
    """A network in a form that any process can time without the network's code.

    Attributes:
        content: An ONNX file, or a program of ``torch.export``.
        inputs: One batch of inputs.
    """

    content: bytes
    inputs: Tensor


def program_of(model: nn.Module, task: Task, batch_size: int, conditions: Conditions) -> Program:
    """Return a network as a program, a quantized one in its stored form, for ``batch_size`` samples.

    Raises:
        ExportError: The network can't be exported to ONNX.
        LatencyError: The network can't be exported by ``torch.export``.
    """
    stored = pack_weights(model) if is_quantized(model) else copy.deepcopy(model)
    stored = stored.to("cpu").to(memory_format=torch.contiguous_format).eval()
    inputs = task.example_inputs().cpu().repeat_interleave(batch_size, dim=0)
    module = TaskForward(stored, task).eval()
    if conditions.backend == "onnxruntime":
        return Program(onnx_bytes(module, inputs), inputs)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(module, (inputs,))
            program.example_inputs = None
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
    except Exception as error:
        raise LatencyError(f"latency: torch.export failed ({first_line(error)}); try backend: onnxruntime") from error
    return Program(buffer.getvalue(), inputs)


def run_of(program: Program, conditions: Conditions) -> Run:
    """Return a run of a program on this machine.

    Raises:
        LatencyError: This machine lacks the backend or the device, or the program fails.
    """
    require(conditions)
    if conditions.backend == "onnxruntime":
        session = open_session(program.content, conditions.threads, _PROVIDERS[conditions.device])
        feed = {session.get_inputs()[0].name: program.inputs.numpy()}
        # A run of ONNX Runtime ends when its outputs are in the CPU's memory, whatever computed them.
        return clock(lambda: session.run(None, feed), conditions.threads)
    with quiet():
        network: Callable[[Tensor], Tensor] = torch.export.load(io.BytesIO(program.content)).module()
    return torch_run(network, program.inputs, conditions)


def torch_run(network: Callable[[Tensor], Tensor], inputs: Tensor, conditions: Conditions) -> Run:
    """Return a run of a network in PyTorch.

    Raises:
        LatencyError: The network fails.
    """
    device = torch.device(conditions.device)
    if isinstance(network, nn.Module):
        network = network.to(device)
    inputs = inputs.to(device)
    if conditions.backend == "compile":
        # Compiled code is cached per function, and after some shapes torch.compile gives up on it.
        torch._dynamo.reset()
        network = torch.compile(network)

    def call() -> None:
        with torch.inference_mode():
            network(inputs)

    try:
        with quiet():
            call()
    except Exception as error:
        raise LatencyError(
            f"latency: backend {conditions.backend} on {conditions.device} fails on this network ({first_line(error)}); try "
            "backend: onnxruntime"
        ) from error
    return clock(call, conditions.threads) if device.type == "cpu" else cuda_clock(call)


def cuda_clock(call: Callable[[], object]) -> Run:
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


def require(conditions: Conditions) -> None:
    """Check that this machine has the backend and the device.

    Raises:
        LatencyError: The machine lacks one of them.
    """
    if conditions.device == "cpu":
        return
    if conditions.backend == "onnxruntime":
        import onnxruntime

        if _PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
            raise LatencyError(
                "latency.device: cuda in ONNX Runtime needs the package onnxruntime-gpu, and this one computes on "
                f"{', '.join(onnxruntime.get_available_providers())}; install it, or set device: cpu or backend: eager"
            )
    elif not torch.cuda.is_available():
        raise LatencyError("latency.device: cuda, and PyTorch finds no GPU here; set device: cpu, or resource: NAME")
