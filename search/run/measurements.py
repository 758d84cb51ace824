"""Measurements of the networks in a report, each made once and stored at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from evaluators.base import EvaluationContext, Evaluator
from evaluators.cost import count_costs
from evaluators.task import Task
from evaluators.tasks.measure import measure
from search.output.atomic import write_json

T = TypeVar("T")


class Measurements:
    """Store of measured rows, by the role of the network; a resumed run reads them back.

    Args:
        path: JSON file of the store.
    """

    def __init__(self, path: Path) -> None:
        """Read the rows that an earlier run has stored."""
        self._path = path
        self._rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def row(self, role: str, key: str, measured: Callable[[], T]) -> T:
        """Return the stored row of ``role`` if it is of the network with hash ``key``, else measure and store it."""
        if self._rows.get(role, {}).get("key") != key:
            self._rows[role] = {"key": key, "row": measured()}
            write_json(self._path, self._rows)
        row: T = self._rows[role]["row"]
        return row


def measure_row(model: nn.Module, task: Task, device: torch.device, evaluators: Sequence[Evaluator] = ()) -> dict[str, Any]:
    """Return scores on the test split, and costs, of one network as report.json has them.

    ``top1`` is null for a task without it, ``metrics`` are the task's other scores, ``size_bytes`` are all tensors of
    weights.safetensors, ``latency_ms`` is null where it was not measured. Costs that only ``evaluators`` measure stand under
    their own names.
    """
    scores = measure(model, task, "test", device=device)
    costs = count_costs(model, task.example_inputs().to(device), task.forward)
    row = {
        "top1": scores.pop("top1", None),
        "loss": scores.pop("loss"),
        "metrics": scores,
        "parameters": int(costs["parameters"]),
        "macs": int(costs["macs"]),
        "size_bytes": int(costs["size_bytes"]),
        "bit_operations": int(costs["bit_operations"]),
        "latency_ms": None,
    }
    for evaluator in evaluators:
        context = EvaluationContext(task, torch.Generator().manual_seed(0), device, 1.0, model, {})
        found, metrics = evaluator.evaluate(model, context), evaluator.metrics_for(task)
        row |= {name: value for name, value in found.items() if metrics[name].is_cost and name not in row}
    return row
