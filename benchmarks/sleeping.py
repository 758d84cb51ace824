"""An evaluation that takes its time and computes nothing, without torch: workers import it by its name."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from search.executors.base import Evaluate, Job
from search.study.trial import Trial


@dataclass(frozen=True)
class Sleeping:
    """Makes evaluations that sleep.

    Attributes:
        seconds: How long each takes; 0 for an evaluator that does nothing at all.
    """

    seconds: float

    def __call__(self) -> Evaluate:
        """Return the evaluation, in the process where it is called."""
        return self.evaluate

    def evaluate(self, job: Job, checkpoint: object = None, start: object = None) -> Trial:
        """Return a trial with made-up numbers; one of them says whether this process has loaded torch."""
        if self.seconds:
            time.sleep(self.seconds)
        kept = sum(str(mask).count("1") for mask in job.proposal.candidate.values.values())
        metrics = {"top1": 0.5, "macs": float(kept), "torch": float("torch" in sys.modules)}
        return Trial(job.number, job.proposal, "complete", metrics, self.seconds)
