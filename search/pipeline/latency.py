"""Latency of a run's networks, measured in turn at the end of the run, beside the prediction of the layer table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from evaluators.latency.backends.base import find_backend
from evaluators.latency.latency import Latency, latencies
from evaluators.task import Task
from search.config.loading import Execution
from search.executors.remote_timer import evaluators_of
from search.report.data import Flow
from search.run.stage_run import RESULT
from search.stages.base import PlacedStage

Milliseconds = Annotated[float, Field(ge=0.0)]


class Timed(TypedDict):
    """The latency of one network."""

    median: Milliseconds
    low: Milliseconds
    high: Milliseconds
    repetitions: Annotated[int, Field(ge=0)]


class MeasuredLatencies(TypedDict):
    """The latencies of :func:`measure_latency`."""

    networks: dict[str, Timed]
    predicted: float | None
    error: float | None


def latency_of(stages: Iterable[PlacedStage], execution: Execution) -> Latency | None:
    """Return the latency evaluator of the last search that has one; None where none has."""
    blocks = [block for placed in stages for block in placed.stage.evaluators]
    found = latencies(evaluators_of(blocks, execution))
    return found[-1] if found else None


def measure_latency(latency: Latency, reference: Flow, flows: Mapping[str, Flow], task: Task) -> dict[str, Any]:
    """Return the latency of the reference and of all ``flows``, run in turn, for report.json.

    ``mode``, ``backend``, its ``label``, ``device``, ``threads``, ``batch_size`` and ``machine`` (processor or GPU) say how;
    ``networks`` has by role ``median``, ``low`` and ``high`` (milliseconds, the interval is of 95 %) and ``repetitions``.
    ``predicted`` is what the layer table said of the result, null without one or where a later stage changed the network's
    structure, and ``error`` its relative difference from the measured median.
    """
    networks = {"reference": reference.network, **{role: flow.network for role, flow in flows.items()}}
    timings = latency.timings([network.model for network in networks.values()], task)
    found = {role: asdict(timing) for role, timing in zip(networks, timings, strict=True)}
    predicted = _predicted(latency, flows[RESULT])
    settings = latency.settings
    return {
        **{name: getattr(settings, name) for name in ("mode", "backend", "device", "threads", "batch_size")},
        "label": find_backend(settings.backend).label,
        "machine": latency.timer.machine(settings.conditions),
        "networks": found,
        "predicted": predicted,
        "error": None if predicted is None else predicted / found[RESULT]["median"] - 1.0,
    }


def _predicted(latency: Latency, result: Flow) -> float | None:
    search, removals = result.last_search(), result.removals()
    if latency.settings.mode != "table" or search is None or removals[-1] is not search.notes:
        return None
    return float(search.notes["metrics"]["latency_ms"]) if "latency_ms" in search.notes["metrics"] else None
