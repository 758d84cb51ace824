"""What a task shows to the importance criteria that learn from batches."""

from __future__ import annotations

import torch

from evaluators.task import Split, Task
from spaces.sparsifiers.importance import Observations


def observations(
    task: Task, device: torch.device, limit: int | None = None, split: Split = "train", batch_size: int = 128
) -> Observations:
    """Return the first ``limit`` samples of a split, in fixed order and unaugmented, with the task's loss and labels."""
    batches = ((inputs.to(device), targets.to(device)) for inputs, targets in task.batches(split, batch_size, limit=limit))
    return Observations(batches, task.loss, task.labels, task.forward)
