"""Random search over legal candidates at the cost of the target."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from search.algorithms.base import Algorithm
from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.level_allocation import LevelAllocation, random_levels
from search.algorithms.encoding.sampling import Channels, random_masks
from search.algorithms.encoding.sweep import Sweep
from search.study.problem import Problem
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate

_RETRIES = 50


@dataclass(frozen=True)
class RandomSettings:
    """Options of random search.

    Attributes:
        evaluations: Number of candidates.
        channels: Channels kept in a layer: those of highest ``importance`` (a strong baseline), or ``random`` ones.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    evaluations: int = field(default=640, metadata={"small": 27})
    channels: Channels = "importance"

    def __post_init__(self) -> None:
        """Raise ValueError, naming the option, for a value out of range."""
        if self.evaluations < 1:
            raise ValueError(f"evaluations: expected at least 1, got {self.evaluations}")


class RandomSearch(Algorithm[RandomSettings]):
    """Draws the share that every layer keeps, scales the shares to just under the target, and repeats no candidate.

    The baseline of every search at an equal number of evaluations (Li and Talwalkar 2019, arXiv 1902.07638); it shares
    repair and budget filling with the genetic search. Without a target, candidates are spread over all costs.
    """

    Settings = RandomSettings

    def __init__(self, problem: Problem, settings: RandomSettings, seed: int) -> None:
        """Seed the generator and read the decisions of the problem."""
        super().__init__(problem, settings, seed)
        self._rng = np.random.default_rng([seed, 1])
        self._drawing: _Drawing = _ChoiceDrawing(problem) if LevelAllocation.fits(problem) else _MaskDrawing(problem, settings)
        self._drawn: set[str] = set()
        self._told: set[str] = set()
        self._exhausted = False

    def ask(self, limit: int) -> list[Proposal]:
        """Draw at most ``limit`` new candidates."""
        proposals: list[Proposal] = []
        while len(proposals) < limit and len(self._drawn) < self._settings.evaluations:
            candidate = self._draw()
            if candidate is None:
                break
            self._drawn.add(candidate.fingerprint)
            if candidate.fingerprint not in self._told:
                proposals.append(Proposal(candidate))
        return proposals

    def tell(self, trial: Trial) -> None:
        """Count a finished trial."""
        self._told.add(trial.proposal.candidate.fingerprint)

    @property
    def finished(self) -> bool:
        """True if all evaluations were told, or all candidates that drawing finds."""
        if len(self._told) >= self._settings.evaluations:
            return True
        return self._exhausted and self._drawn <= self._told

    @property
    def budget(self) -> int | None:
        """Number of evaluations in the settings."""
        return self._settings.evaluations

    def _draw(self) -> Candidate | None:
        candidate = None if self._exhausted else self._drawing.draw(self._rng, self._drawn)
        self._exhausted = candidate is None
        return candidate


class _Drawing(Protocol):
    def draw(self, rng: np.random.Generator, drawn: Collection[str]) -> Candidate | None:
        """Return a candidate whose fingerprint is not in ``drawn``, or None if none is found."""
        ...


class _MaskDrawing:
    """Draws keep-masks."""

    def __init__(self, problem: Problem, settings: RandomSettings) -> None:
        self._channels = settings.channels
        self._encoding = ChannelEncoding(problem)
        self._sweep = Sweep(self._encoding)
        self._smallest = self._encoding.load(self._encoding.smallest())

    def draw(self, rng: np.random.Generator, drawn: Collection[str]) -> Candidate | None:
        """Return a candidate whose fingerprint is not in ``drawn``, or None if none is found."""
        for attempt in range(3 * _RETRIES):
            # Without a new candidate, draw random channels, and at last costs below the target as well.
            channels = self._channels if attempt < _RETRIES else "random"
            limit = None if attempt < 2 * _RETRIES else float(rng.uniform(self._smallest, 1.0))
            candidate = self._encoding.candidate(random_masks(self._encoding, rng, channels, limit))
            if candidate.fingerprint not in drawn:
                return candidate
        left = self._sweep.unvisited(drawn, [], count=1)
        return self._encoding.candidate(left[0]) if left else None


class _ChoiceDrawing:
    """Draws an option, such as a number of bits, for every decision."""

    def __init__(self, problem: Problem) -> None:
        self._allocation = LevelAllocation(problem)

    def draw(self, rng: np.random.Generator, drawn: Collection[str]) -> Candidate | None:
        """Return a candidate whose fingerprint is not in ``drawn``, or None if none is found."""
        for _ in range(3 * _RETRIES):
            candidate = random_levels(self._allocation, rng)
            if candidate.fingerprint not in drawn:
                return candidate
        return None
