"""Evaluate trials that train one after the other, each in several processes that train it together."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from search.config.registries import EXECUTOR
from search.executors.base import Executor, Job, Workload
from search.executors.serial import SerialExecutor, SerialSettings
from search.executors.training_group import LostGroupError, TrainingGroup
from search.study.trial import Trial

if TYPE_CHECKING:
    from evaluators.training.checkpoint import FileCheckpoint
    from search.config.loading import Execution
    from search.executors.trial_checkpoints import EndState


def training_group(execution: Execution, tell: Callable[[str], None]) -> TrainingGroup:
    """Return the processes that train together in this run: those that torchrun has started, or else some on Ray.

    Args:
        execution: The configuration's execution.
        tell: Takes a line on every loss.
    """
    # Only a training that leaves this process needs what takes it there.
    from search.executors.launched import LaunchedGroup, launched
    from search.executors.ray_group import RayGroup

    post = launched()
    return RayGroup(execution, tell) if post is None else LaunchedGroup(post, execution)


def executor_of(execution: Execution, workload: Workload, tell: Callable[[str], None]) -> Executor[Any]:
    """Return the configured executor, or one that trains trials on several workers where these are asked for.

    Args:
        execution: The configuration's execution.
        workload: The evaluation to carry out.
        tell: Takes a line on every loss of a training worker.
    """
    if execution.training_workers > 1 and workload.pack_together is not None:
        return GroupExecutor(workload, execution, tell)
    found: Executor[Any] = EXECUTOR.build(execution.executor, workload)
    return found


class GroupExecutor(SerialExecutor):
    """Executor of jobs in the order of submission, each trained by all training workers together.

    A job whose training workers are lost more often than ``execution.retries`` is a failed trial.

    Args:
        workload: The evaluation to carry out, which can be packed for several processes.
        execution: Number and patience of the training workers.
        tell: Takes a line on every loss.
    """

    def __init__(self, workload: Workload, execution: Execution, tell: Callable[[str], None]) -> None:
        super().__init__(workload, SerialSettings())
        self._group = training_group(execution, tell)
        self._packed = None if workload.pack_together is None else workload.pack_together(execution.device)

    def evaluated(self, job: Job, checkpoint: FileCheckpoint | None, start: EndState | None) -> Trial:
        """Return the trial of a job, measured by the first of the processes."""
        from search.executors.group_training import Order

        if self._packed is None or checkpoint is None:
            return super().evaluated(job, checkpoint, start)
        began = time.perf_counter()
        try:
            trial: Trial = self._group.train(self._packed, checkpoint, order=Order(job, start))
        except LostGroupError as error:
            seconds = time.perf_counter() - began
            return Trial(job.number, job.proposal, "failed", {}, seconds, f"{type(error).__name__}: {error}")
        return trial

    def close(self) -> None:
        """Drop the queued jobs, and end the training workers."""
        self.cancel()
        self._group.close()
