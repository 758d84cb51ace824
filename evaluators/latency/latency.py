"""Measure the latency of the physical network in milliseconds, or read it off a table of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import nn

from evaluators.base import EvaluationContext, Evaluator, Metric
from evaluators.latency.backends import Backend, Conditions, DeviceName, program_of
from evaluators.latency.timers import LocalTimer, Timer
from evaluators.latency.timing import LEAST_REPETITIONS, Timing
from evaluators.task import Task
from spaces.errors import SecateursError


@dataclass(frozen=True)
class LatencySettings:
    """Options of :class:`Latency`.

    Attributes:
        mode: ``measured`` times the network of every candidate; ``table`` adds up milliseconds of single layers, measured once
            and kept by shape, so that a candidate's latency is known before its network is built.
        backend: Runtime of the network: ``onnxruntime``, PyTorch (``eager``) or ``torch.compile`` (``compile``, not for a
            table, since it merges layers).
        device: ``cpu`` or ``cuda``.
        threads: Threads of a run on the CPU.
        batch_size: Samples in a run.
        warmup: Untimed runs before the timed ones.
        repetitions: Timed runs; the latency is their median.
        seconds: Seconds after which no more runs of a network are begun.
        points: For a table: number of channel counts to measure of a layer, for inputs and outputs each and for every
            alignment (multiples of 16, of 8, of 4, others); counts in between are interpolated.
        cache: For a table: folder of the measured layers; null for the folder named by the environment variable
            SECATEURS_CACHE, else ``~/.cache/secateurs``.
        resource: Custom resource of the Ray node to measure on, as in ``ray start --resources='{"NAME": 1}'``; null for this
            machine.
        address: Cluster of ``resource`` if trials run elsewhere: ``auto`` or ``host:port``.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    mode: Literal["measured", "table"] = "measured"
    backend: Backend = "onnxruntime"
    device: DeviceName = "cpu"
    threads: int = 1
    batch_size: int = 1
    warmup: int = 10
    repetitions: int = 100
    seconds: float = 5.0
    points: int = 4
    cache: str | None = None
    resource: str | None = None
    address: str = "auto"

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        fewest = {"threads": 1, "batch_size": 1, "warmup": 0, "repetitions": LEAST_REPETITIONS, "points": 2}
        for name, least in fewest.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.seconds <= 0:
            raise ValueError(f"seconds: expected a number above 0, got {self.seconds}")
        if self.mode == "table" and (self.backend == "compile" or (self.backend == "onnxruntime" and self.device == "cuda")):
            raise ValueError(
                f"mode: a table is of layers one by one, and {self.backend} on {self.device} does not run them like that; "
                "expected measured, or backend: onnxruntime on the cpu, or eager"
            )
        for name in ("resource", "cache"):
            if getattr(self, name) == "":
                raise ValueError(f"{name}: expected a name or null, got ''")

    @property
    def conditions(self) -> Conditions:
        """Conditions of timing a program."""
        names = ("backend", "device", "threads", "warmup", "repetitions", "seconds")
        return Conditions(**{name: getattr(self, name) for name in names})


class Latency(Evaluator):
    """Median milliseconds of a run of the physical network, on the machine it is to run on.

    A quantized network is timed in its stored form. A machine makes one measurement at a time.
    """

    Settings = LatencySettings
    rank = 20

    def __init__(self, settings: LatencySettings, timer: Timer | None = None) -> None:
        """Keep the settings and the timer.

        Args:
            settings: Backend, device, number of runs.
            timer: Machine that networks are timed on; by default this one.
        """
        self.settings = settings
        self.timer: Timer = LocalTimer() if timer is None else timer

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``latency_ms``, the median of the timed runs."""
        return {"latency_ms": Metric("ms", "minimize")}

    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        """Return the latency of ``model``; in mode ``table``, for a candidate, the table's sum.

        Raises:
            SecateursError: The network can't be timed, or the space has no latency table.
        """
        if self.settings.mode == "table" and context.candidate is not None:
            if "latency_ms" not in context.costs:
                raise SecateursError(
                    "latency: this space can't tell the latency of a candidate from its layers; expected mode: measured"
                )
            return {"latency_ms": float(context.costs["latency_ms"])}
        return {"latency_ms": self.timings([model], context.task, context.fidelity)[0].median}

    def timings(self, models: Sequence[nn.Module], task: Task, fidelity: float = 1.0) -> list[Timing]:
        """Return the timings of networks, run in turn, with ``fidelity`` times the repetitions.

        Raises:
            SecateursError: A network can't be timed.
        """
        conditions = self.settings.conditions
        often = max(LEAST_REPETITIONS, round(conditions.repetitions * fidelity))
        programs = [program_of(model, task, self.settings.batch_size, conditions) for model in models]
        return self.timer.time(programs, replace(conditions, repetitions=often))
