"""Options of the genetic search."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from search.algorithms.genetics.racing import RacingSettings


@dataclass(frozen=True)
class GeneticSettings:
    """Options of the genetic search.

    Attributes:
        population: Candidates in the first generation, and survivors of each generation.
        generations: Number of generations, the first one included; None for no limit.
        evaluations: Number of trials, of any fidelity; None for no limit. The search ends at the limit reached first.
        offspring: New candidates of each later generation; None for as many as ``population``.
        encoding: ``mask``, a bit per channel, or ``factor``, a threshold per layer; a space of levels always uses ``factor``.
        crossover: Chance that a child has two parents.
        mutation: Chance that a child of two parents is mutated too; a child of one always is.
        elite: Number of best candidates that survive regardless of crowding; as many greedy masks are measured in full
            first, and at least as many of the first generation are promoted from each rung.
        tournament: Number of candidates that compete to be a parent, with one objective.
        seed_ratios: Costs of further greedy masks in the first generation of a search for a front, as shares of the target,
            or of the dense network's cost without a target.
        racing: Measurement on subsets first (ours); None measures every candidate in full.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    population: int = field(default=32, metadata={"small": 8})
    generations: int | None = field(default=20, metadata={"small": 5})
    evaluations: int | None = None
    offspring: int | None = None
    encoding: Literal["mask", "factor"] = "mask"
    crossover: float = 0.6
    mutation: float = 0.7
    elite: int = 4
    tournament: int = 3
    seed_ratios: tuple[float, ...] = (0.85, 0.7, 0.5, 0.35, 0.2)
    racing: RacingSettings | None = field(default_factory=RacingSettings)

    def __post_init__(self) -> None:
        """Raise ValueError, naming the option, for a value out of range."""
        limits = {"population": (self.population, 2), "elite": (self.elite, 1), "tournament": (self.tournament, 1)}
        optional = {"generations": self.generations, "evaluations": self.evaluations, "offspring": self.offspring}
        limits |= {name: (value, 1) for name, value in optional.items() if value is not None}
        for name, (value, least) in limits.items():
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if self.elite > self.population:
            raise ValueError(f"elite: expected at most the population of {self.population}, got {self.elite}")
        for name, share in {"crossover": self.crossover, "mutation": self.mutation}.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name}: expected a chance from 0 to 1, got {share}")
        if any(not 0.0 < ratio <= 1.0 for ratio in self.seed_ratios):
            raise ValueError(f"seed_ratios: expected shares above 0 and up to 1, got {list(self.seed_ratios)}")
