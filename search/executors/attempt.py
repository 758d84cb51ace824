"""The trial of a job, measured or failed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from evaluators.training.checkpoint import Checkpoint
from search.executors.base import Job
from search.output.disk_errors import is_disk_error
from search.output.exhaustion import exhausted
from search.study.trial import Trial
from spaces.execution.failed_layer import failed_layer


def attempt(job: Job, checkpoint: Checkpoint | None, measured: Callable[[], Mapping[str, float]]) -> Trial:
    """Return the trial of a job; whatever goes wrong makes it a failed one, with the error's text.

    Args:
        job: The job.
        checkpoint: Place that ``measured`` saves a training to, or None.
        measured: Returns the job's metrics.

    Raises:
        Exception: Memory or the disk of this process is full, which says nothing about the candidate.
    """
    began = time.perf_counter()
    try:
        metrics = measured()
    except Exception as error:
        if exhausted(error) or (checkpoint is not None and checkpoint.on_disk and is_disk_error(error)):
            raise
        layer = failed_layer(error)
        text = f"{type(error).__name__}: {error}{f' (in layer {layer})' if layer else ''}"
        return Trial(job.number, job.proposal, "failed", {}, time.perf_counter() - began, text)
    return Trial(job.number, job.proposal, "complete", metrics, time.perf_counter() - began)
