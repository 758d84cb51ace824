"""Trials: what is proposed, what was measured, and the one recipe that turns the first into the second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spaces.candidate import Candidate


@dataclass(frozen=True)
class Proposal:
    """What an algorithm wants measured.

    Attributes:
        candidate: The choice to measure.
        fidelity: Share of the full effort, in (0, 1].
        warm_start: Number of the trial whose checkpoint to start from, or None.
    """

    candidate: Candidate
    fidelity: float = 1.0
    warm_start: int | None = None


@dataclass(frozen=True)
class Trial:
    """A proposal with what was measured.

    Attributes:
        number: Position in the study, from 0, in the order of proposing.
        proposal: What was measured.
        state: ``complete``, or ``failed`` with ``error`` set and no metrics.
        metrics: Measured values by metric name.
        seconds: Wall-clock time of the evaluation.
    """

    number: int
    proposal: Proposal
    state: Literal["complete", "failed"]
    metrics: Mapping[str, float]
    seconds: float = 0.0
    error: str = ""
