"""Latency: how long the physical network takes to answer, measured; or told by a table of its layers."""

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
        mode: ``measured`` times the network of every candidate; ``table`` adds up milliseconds of its layers, measured once and
            kept by shape, so that a candidate's latency is known before it is built.
        backend: What runs the network: ``onnxruntime``, PyTorch as it is (``eager``) or compiled (``compile``, not for a table,
            since it merges layers).
        device: ``cpu`` or ``cuda``.
        threads: Threads that a run computes with on the CPU.
        batch_size: Samples in a run.
        warmup: Runs before those that count.
        repetitions: Runs that count; the latency is their median.
        seconds: No more runs of a network are begun after so many seconds.
        points: For a table: channel counts that are measured of a layer, of inputs and outputs each and of every kind
            (multiples of 16, of 8, of 4, others); what lies between is interpolated.
        cache: For a table: folder in which measured layers are kept; null for what the environment variable SECATEURS_CACHE
            names, else ``~/.cache/secateurs``.
        resource: Custom resource of a node on a Ray cluster, as in ``ray start --resources='{"NAME": 1}'``: it is measured
            there; null for this machine.
        address: The cluster for ``resource``, where trials do not run on it anyway: ``auto`` or ``host:port``.
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
        """How programs are timed."""
        names = ("backend", "device", "threads", "warmup", "repetitions", "seconds")
        return Conditions(**{name: getattr(self, name) for name in names})


class Latency(Evaluator):
    """Milliseconds of a run of the physical network, the median of many; on the machine that it is meant for.

    A quantized network is timed in the form in which it is stored. One measurement at a time is made on a machine.

    Args:
        settings: Backend, device and how often.
        timer: Where networks are timed; by default on this machine.
    """

    Settings = LatencySettings
    rank = 20

    def __init__(self, settings: LatencySettings, timer: Timer | None = None) -> None:
        self.settings = settings
        self.timer: Timer = LocalTimer() if timer is None else timer

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``latency_ms``: the median of a run."""
        return {"latency_ms": Metric("ms", "minimize")}

    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        """Return the latency of ``model``; of a candidate as the table tells it, where that is the mode.

        Raises:
            SecateursError: It can't be measured, or the space knows nothing of latency.
        """
        if self.settings.mode == "table" and context.candidate is not None:
            if "latency_ms" not in context.costs:
                raise SecateursError(
                    "latency: this space can't tell the latency of a candidate from its layers; expected mode: measured"
                )
            return {"latency_ms": float(context.costs["latency_ms"])}
        return {"latency_ms": self.timings([model], context.task, context.fidelity)[0].median}

    def timings(self, models: Sequence[nn.Module], task: Task, fidelity: float = 1.0) -> list[Timing]:
        """Return what is measured of networks, run in turn; with a lower ``fidelity`` less often.

        Raises:
            SecateursError: One can't be measured.
        """
        conditions = self.settings.conditions
        often = max(LEAST_REPETITIONS, round(conditions.repetitions * fidelity))
        programs = [program_of(model, task, self.settings.batch_size, conditions) for model in models]
        return self.timer.time(programs, replace(conditions, repetitions=often))
