"""The measurements of a report: every network once, stored as soon as it is measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from evaluators.cost import count_costs
from evaluators.task import Task
from evaluators.tasks.measure import measure
from search.output.atomic import write_json

T = TypeVar("T")


class Measurements:
    """What was measured, by the role of the network; never measured again on resume."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def row(self, role: str, key: str, measured: Callable[[], T]) -> T:
        """Return the row of ``role``; ``key`` says which network it is of."""
        if self._rows.get(role, {}).get("key") != key:
            self._rows[role] = {"key": key, "row": measured()}
            write_json(self._path, self._rows)
        row: T = self._rows[role]["row"]
        return row


def measure_row(model: nn.Module, task: Task, device: torch.device) -> dict[str, Any]:
    """Return the figures of one network as report.json has them, on the test split.

    ``top1`` is null for a task without it, ``metrics`` are the task's other scores, ``size_bytes`` are all tensors of
    weights.safetensors, ``latency_ms`` is null where it was not measured.
    """
    scores = measure(model, task, "test", device=device)
    costs = count_costs(model, task.example_inputs().to(device), task.forward)
    return {
        "top1": scores.pop("top1", None),
        "loss": scores.pop("loss"),
        "metrics": scores,
        "parameters": int(costs["parameters"]),
        "macs": int(costs["macs"]),
        "size_bytes": int(costs["size_bytes"]),
        "bit_operations": int(costs["bit_operations"]),
        "latency_ms": None,
    }
