"""Tables that algorithms and evaluators of a search may read: importance, samples and Omega."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from evaluators.task import Task
from evaluators.tasks.observations import observations
from search.stages.search.space import CALIBRATION_SAMPLES
from spaces.base import SearchSpace
from spaces.importance import criterion as importance


def importance_table(
    space: SearchSpace[Any], model: nn.Module, task: Task, criterion: str, device: torch.device
) -> dict[str, np.ndarray]:
    """Return the importance of every channel, float64 of shape ``(channels,)`` by group; none for a space of levels.

    A space of levels knows what they are worth by itself (:meth:`.SearchSpace.gains`).
    """
    if space.channels is None or space.levels is not None:
        return {}
    few = importance.find_criterion(criterion).few_samples
    seen = observations(task, device, limit=space.level_settings.images if few else CALIBRATION_SAMPLES)
    return importance.score(model, space.channels, criterion, seen)


def search_tables(
    space: SearchSpace[Any], model: nn.Module, task: Task, criterion: str, device: torch.device, omega: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the tables of a search: ``importance``, ``samples`` of the search split and, where given, ``omega``."""
    found: dict[str, Any] = {"samples": {"search": np.array(task.size("search"))}}
    if scores := importance_table(space, model, task, criterion, device):
        found["importance"] = scores
    return found if omega is None else {**found, "omega": omega}
