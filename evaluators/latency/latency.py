"""Measure the latency of the physical network in milliseconds, or read it off a table of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import nn

from evaluators.base import EvaluationContext, Evaluator
from evaluators.latency.backends.base import Conditions, find_backend, program_of
from evaluators.latency.timers import LocalTimer, Timer
from evaluators.latency.timing import LEAST_REPETITIONS, Timing
from evaluators.metrics import METRICS, Metric
from evaluators.task import Task
from spaces.base import SearchSpace
from spaces.errors import SecateursError


@dataclass(frozen=True)
class LatencySettings(Conditions):
    """Options of :class:`Latency`, beside those of :class:`.Conditions`.

    Attributes:
        mode: ``measured`` times the network of every candidate; ``table`` adds up milliseconds of single layers, measured once
            and kept by shape, so that a candidate's latency is known before its network is built.
        batch_size: Samples in a run.
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
    batch_size: int = 1
    points: int = 4
    cache: str | None = None
    resource: str | None = None
    address: str = "auto"

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        super().__post_init__()
        for name, value, least in (("batch_size", self.batch_size, 1), ("points", self.points, 2)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if self.mode == "table" and not find_backend(self.backend).supports(self.device):
            raise ValueError(
                f"mode: a table is of layers one by one, and {self.backend} on {self.device} does not run them like that; "
                "expected measured, or backend: onnxruntime on the cpu, or eager"
            )
        for name, text in (("resource", self.resource), ("cache", self.cache)):
            if text == "":
                raise ValueError(f"{name}: expected a name or null, got ''")

    @property
    def conditions(self) -> Conditions:
        """Conditions of timing a program."""
        return Conditions(self.backend, self.device, self.threads, self.warmup, self.repetitions, self.seconds)


class Latency(Evaluator):
    """Median milliseconds of a run of the physical network, on the machine it is to run on.

    A quantized network is timed in its stored form. A machine makes one measurement at a time.
    """

    Settings = LatencySettings
    rank = 20
    repeatable = False

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
        return {"latency_ms": METRICS["latency_ms"]}

    @property
    def undisturbed(self) -> bool:
        """True if candidates are timed on this machine."""
        return self.settings.mode == "measured" and self.settings.resource is None

    def check(self, space: SearchSpace[Any]) -> None:
        """Check that this machine has the backend and the device, unless another one measures.

        Raises:
            LatencyError: The machine lacks one of them.
        """
        if self.settings.resource is None:
            find_backend(self.settings.backend).require(self.settings.device)

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


def latencies(evaluators: Iterable[Evaluator]) -> list[Latency]:
    """Return the evaluators of latency among ``evaluators``, in their order."""
    return [evaluator for evaluator in evaluators if isinstance(evaluator, Latency)]


def with_timers(evaluators: Iterable[Evaluator], remote: Callable[[str, str], Timer]) -> list[Evaluator]:
    """Return ``evaluators``, with those of latency on a Ray resource replaced by ones that measure there.

    Args:
        evaluators: The evaluators.
        remote: Returns the timer of a resource, given the resource and ``settings.address``.
    """
    placed: list[Evaluator] = []
    for evaluator in evaluators:
        if isinstance(evaluator, Latency) and evaluator.settings.resource is not None:
            settings = evaluator.settings
            placed.append(Latency(settings, remote(evaluator.settings.resource, settings.address)))
        else:
            placed.append(evaluator)
    return placed
