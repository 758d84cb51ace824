"""Samples, loss and labels of a task, for importance criteria computed from batches."""

from __future__ import annotations

import torch

from evaluators.task import Split, Task
from spaces.execution.batch import to_device
from spaces.importance.criterion import CRITERIA, Observations, missing_labels
from spaces.registry import resolve
from spaces.sparsifiers.base import Sparsifier


def observations(
    task: Task, device: torch.device, limit: int | None = None, split: Split = "train", batch_size: int = 128
) -> Observations:
    """Return the first ``limit`` samples of a split (fixed order, unaugmented) with the task's loss and labels."""
    found = (to_device(batch, device) for batch in task.batches(split, batch_size, limit=limit))
    batches = ((task.loss_inputs(inputs, targets), targets) for inputs, targets in found)
    return Observations(batches, task.loss, task.labels, task.forward)


def require_labels(sparsifier: Sparsifier, task: Task) -> None:
    """Raise if the sparsifier's importance criterion compares classes and the task has no class labels.

    Raises:
        MissingLabelsError: The task has no class labels.
    """
    name = sparsifier.importance
    if name is None:
        return
    criterion = resolve(CRITERIA[name])
    _, targets = next(iter(task.batches("train", 2, limit=2)))
    if criterion.labels and task.labels(targets) is None:
        raise missing_labels(criterion)
