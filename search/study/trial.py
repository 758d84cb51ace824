"""Proposals of an algorithm, and measured trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spaces.candidate import Candidate


@dataclass(frozen=True)
class Proposal:
    """Candidate to be measured, as an algorithm asks for it.

    Attributes:
        candidate: The choice to measure.
        fidelity: Share of the full effort, in [0, 1]. For a trial that trains: the share of the training's epochs, rounded
            up; 0 trains nothing, and measures the network as it is, in full.
        warm_start: Number of the trial whose end state to start from, or None. With the same candidate its training goes on (a
            rung of halving); another candidate takes over its weights and the optimizer's moments.
    """

    candidate: Candidate
    fidelity: float = 1.0
    warm_start: int | None = None


@dataclass(frozen=True)
class Trial:
    """Proposal with its measured metrics.

    Attributes:
        number: Position in the study, from 0, in the order of proposing.
        proposal: The measured candidate, its fidelity and the trial it starts from.
        state: ``complete``, or ``failed`` with ``error`` set and no metrics.
        metrics: Measured values by metric name.
        seconds: Wall-clock time of the evaluation.
        error: Text of the error of a failed trial, else empty.
    """

    number: int
    proposal: Proposal
    state: Literal["complete", "failed"]
    metrics: Mapping[str, float]
    seconds: float = 0.0
    error: str = ""
