"""Describe the metrics of a run for its report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from evaluators.base import Evaluator
from evaluators.metrics import METRICS, Metric
from evaluators.task import Task
from search.config.registries import EVALUATOR
from search.run.measurements import COUNTED
from search.stages.base import PlacedStage


def cost_evaluators(stages: Iterable[PlacedStage], task: Task) -> list[Evaluator]:
    """Return the stages' evaluators of costs that are not counted, or timed in turn, on every network anyway, each once.

    A table of latencies tells nothing of a network that no candidate describes: an evaluator that reads it is left out.
    """
    found: dict[str, Evaluator] = {}
    for placed in stages:
        for block in placed.stage.evaluators:
            evaluator: Evaluator = EVALUATOR.build(block)
            costs = {name for name, metric in evaluator.metrics_for(task).items() if metric.is_cost}
            wanted = costs - METRICS.keys() if "latency_ms" in costs else costs - {*COUNTED}
            if wanted and evaluator.repeatable and not evaluator.needs_quantizers:
                found[block.name] = evaluator
    return list(found.values())


def described_metrics(stages: Iterable[PlacedStage], task: Task) -> dict[str, dict[str, Any]]:
    """Return the description of every metric of the task and of the stages' evaluators, by name, as JSON data."""
    found: dict[str, Metric] = {**task.score_metrics, "loss": task.score_metrics.get("loss", METRICS["loss"])}
    for placed in stages:
        for block in placed.stage.evaluators:
            found |= EVALUATOR.build(block).metrics_for(task)
    return {name: metric.named(name).to_json() for name, metric in found.items()}
