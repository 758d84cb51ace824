"""Interface of a backend, the runtime in which networks are timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from evaluators.latency.backends import BACKENDS
from evaluators.latency.timing import LEAST_REPETITIONS, Run
from evaluators.onnx_export import exportable
from evaluators.task import Task
from spaces.cloning.clone import clone
from spaces.errors import SecateursError
from spaces.execution.batch import Nested, repeat, to_device
from spaces.layers.macs import FLOAT_BITS
from spaces.layers.shapes import LayerShape
from spaces.quantization.record import is_quantized, pack_weights
from spaces.registry import UnknownNameError, lookup, resolve_named

DeviceName = Literal["cpu", "cuda"]


class LatencyError(SecateursError):
    """A network can't be timed under the given conditions."""


class Backend(ABC):
    """A runtime in which networks are timed; keeps no state between calls.

    A network is exported where its code is, and built where it is timed, maybe on another machine: bytes alone travel.

    Class attributes:
        label: The runtime's name in the report.
        devices: Kinds of devices that the runtime computes on.
    """

    label: ClassVar[str]
    devices: ClassVar[tuple[DeviceName, ...]] = ("cpu",)

    @abstractmethod
    def version(self) -> str:
        """Return the version of the installed runtime; layers timed by another version are timed again."""

    @abstractmethod
    def export(self, module: nn.Module, inputs: Nested) -> bytes:
        """Return a network as bytes for :meth:`build`.

        Args:
            module: The network on the CPU in evaluation mode, called on ``inputs`` alone, or on the
                tensors in it; a quantized one in its stored form.
            inputs: A batch of the size to time, of shape ``(N, ...)``, or a tuple of the tensors of a nested one.

        Raises:
            SecateursError: The network can't be exported; the message names another backend.
        """

    @abstractmethod
    def build(self, content: bytes, inputs: Nested, device: DeviceName, threads: int) -> Run:
        """Return a run of an exported network on this machine.

        Args:
            content: Bytes from :meth:`export`.
            inputs: The batch to run on, on the CPU.
            device: Device to compute on, one that :meth:`require` accepts.
            threads: Threads of a run on the CPU.

        Raises:
            LatencyError: The network fails in the runtime.
        """

    def require(self, device: DeviceName) -> None:
        """Check that this machine has the runtime and the device; called before anything is built.

        Raises:
            LatencyError: The machine lacks one of them; the message says what to install or to set.
        """

    def supports(self, device: DeviceName, weight_bits: int = FLOAT_BITS, input_bits: int = FLOAT_BITS) -> bool:
        """Return whether single layers of such bits run by themselves on ``device``, as a latency table needs."""
        return False

    def layer_runs(
        self, shape: LayerShape, weight_bits: int, input_bits: int, batch_size: int, device: DeviceName, threads: int
    ) -> Sequence[Run]:
        """Return runs of a layer: first in its surroundings, then, if it has any, those of the surroundings alone.

        Called only for bits that :meth:`supports` accepts.

        Args:
            shape: Kind and sizes of the layer.
            weight_bits: Bits of the weights; 32 for float.
            input_bits: Bits of the input; 32 for float.
            batch_size: Samples in a run.
            device: Device to compute on.
            threads: Threads of a run on the CPU.
        """
        raise LatencyError(f"latency: {self.label} does not time single layers; expected mode: measured")


def find_backend(name: str) -> Backend:
    """Return the backend registered as ``name``, or the one at the import path ``name``.

    Raises:
        UnknownNameError: ``name`` is neither; the message names the nearest backend and the list.
    """
    if "." not in name and ":" not in name:
        kind: type[Backend] = lookup(BACKENDS, name, "backend")
        return kind()
    found = resolve_named(name)
    if not isinstance(found, type) or not issubclass(found, Backend):
        raise UnknownNameError(f"{name!r}: expected a class that derives from {Backend.__module__}.Backend, got {found!r:.80}")
    try:
        return found()
    except TypeError as error:
        raise UnknownNameError(f"{name!r}: expected a backend that is made without arguments: {error}") from error


@dataclass(frozen=True)
class Conditions:
    """Conditions of a timing.

    Attributes:
        backend: Runtime of the network: ``onnxruntime``, PyTorch (``eager``) or ``torch.compile`` (``compile``, not for a
            table, since it merges layers); or the import path of a backend of your own.
        device: ``cpu`` or ``cuda``.
        threads: Threads of a run on the CPU.
        warmup: Untimed runs before the timed ones.
        repetitions: Timed runs; the latency is their median.
        seconds: Seconds after which no more runs of a network are begun.
    """

    backend: str = "onnxruntime"
    device: DeviceName = "cpu"
    threads: int = 1
    warmup: int = 10
    repetitions: int = 100
    seconds: float = 5.0

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        try:
            backend = find_backend(self.backend)
        except SecateursError as error:
            raise ValueError(f"backend: {error}") from None
        if self.device not in backend.devices:
            raise ValueError(f"device: expected {' or '.join(backend.devices)} for backend {self.backend}, got {self.device!r}")
        for name, value, least in (
            ("threads", self.threads, 1),
            ("warmup", self.warmup, 0),
            ("repetitions", self.repetitions, LEAST_REPETITIONS),
        ):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if self.seconds <= 0:
            raise ValueError(f"seconds: expected a number above 0, got {self.seconds}")


@dataclass(frozen=True)
class Program:
    """A network in a form that any process can time without the network's code.

    Attributes:
        content: Bytes from :meth:`Backend.export`.
        inputs: One batch of inputs.
    """

    content: bytes
    inputs: Nested


def program_of(model: nn.Module, task: Task, batch_size: int, conditions: Conditions) -> Program:
    """Return a network as a program, a quantized one in its stored form, for ``batch_size`` samples.

    Raises:
        SecateursError: The network can't be exported for the backend.
    """
    stored = pack_weights(model) if is_quantized(model) else clone(model)
    stored = stored.to("cpu").to(memory_format=torch.contiguous_format).eval()
    batch = repeat(to_device(task.traced_inputs(), torch.device("cpu")), batch_size)
    module, inputs = exportable(stored, task, batch)
    return Program(find_backend(conditions.backend).export(module.eval(), inputs), inputs)
