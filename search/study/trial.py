"""Proposals of an algorithm, and measured trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from spaces.candidate import Candidate

Form = Literal["rough", "close", "final"]


@dataclass(frozen=True)
class Step:
    """Measurement that compares candidates with each other, on inputs of its own.

    Attributes:
        images: Number of samples, the same ones for all candidates that are compared.
        seed: Seed by which they are drawn.
        form: Form of the networks, whose layers are solved as far as the search hands on such ones: ``rough`` solves on few
            samples, for a first comparison of many; ``close`` on more; ``final`` measures networks as they are delivered, on
            samples that no other step sees.
    """

    images: int
    seed: int
    form: Form = "rough"


@dataclass(frozen=True)
class Proposal:
    """Candidate to be measured, as an algorithm asks for it.

    Attributes:
        candidate: The choice to measure.
        fidelity: Share of the full effort, in [0, 1]. For a trial that trains: the share of the training's epochs, rounded
            up; 0 trains nothing, and measures the network as it is, in full.
        warm_start: Number of the trial whose end state to start from, or None. With the same candidate its training goes on (a
            rung of halving); another candidate takes over its weights and the optimizer's moments.
        step: A comparison within a generation: evaluated like any other proposal and told, but not recorded. None for a
            proposal that becomes a trial of the study.
        measured: Metrics that the steps before have found, of a proposal that is recorded without another evaluation; None
            where it is to be measured.
        notes: JSON data of the algorithm, recorded with the trial.
    """

    candidate: Candidate
    fidelity: float = 1.0
    warm_start: int | None = None
    step: Step | None = None
    measured: Mapping[str, float] | None = field(default=None, compare=False)
    notes: Mapping[str, Any] = field(default_factory=dict, hash=False)


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
