"""Evaluations without torch, in a module of their own: workers import what they evaluate by its name."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass

from search.executors.base import Evaluate, Job
from search.study.trial import Trial


@dataclass(frozen=True)
class Formula:
    """Evaluates without torch; a candidate of a certain name is the end of its process, or takes long."""

    def __call__(self) -> Evaluate:
        return self.evaluate

    def evaluate(self, job: Job, checkpoint: object = None, start: object = None) -> Trial:
        name = str(job.proposal.candidate.values["name"])
        if name == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "quits":
            sys.exit(3)
        time.sleep(2.0 if name == "slow" else 0.0)
        metrics = {"top1": 0.5, "torch": float("torch" in sys.modules), "pid": float(os.getpid())}
        return Trial(job.number, job.proposal, "complete", metrics)
