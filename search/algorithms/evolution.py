"""Evolution of levels: one parent, children a few switches away, selected in steps on fresh inputs.

A (1 + lambda) search after EvoPress (Sieberling, Kuznedelev, Kurtic, Alistarh 2024, arXiv 2410.14649): many children are
measured on few inputs, the best of them on more, in the last step beside the parent, so that none stays by luck. Ours are the
solved layers in every step, the comparison with the starting points on inputs that no step saw, a trial per generation, and the
preselection: of many children drawn, those are measured that a model of the earlier measurements expects the most of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from search.algorithms.base import Algorithm
from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.level_genome import Genome, LevelGenome
from search.algorithms.encoding.level_model import LevelModel
from search.algorithms.encoding.uniform import global_magnitude, uniform
from search.algorithms.integer_program import optimum
from search.study.pareto import complete_trials, is_finite
from search.study.problem import Problem
from search.study.trial import Proposal, Step, Trial
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.errors import SecateursError
from spaces.execution.randomness import seed_of

_TRIES = 30
"""Children that are drawn for each one that is new, before a generation has fewer of them."""

GUARD_IMAGES = 4
"""Factor of the last step's images in the comparison with the starting points."""

Kind = Literal["start", "generation", "guard"]


@dataclass(frozen=True)
class EvolutionSettings:
    """Options of the evolution.

    Attributes:
        children: Children of a generation.
        generations: Number of generations; None for no end beside the search's budget, which counts generations, too.
        switches: Most switches between parent and child, of which each raises one unit and lowers others.
        preselect: Children that are drawn for each one that is measured; a linear model of the measurements so far chooses. 1
            measures all that are drawn.
        steps: Selection within a generation, as (images, survivors) of every step; the last one leaves one, and solves the
            layers of candidates on more samples than those before.
        integer_program: Measure the divergence of every level, and start from the integer program's levels, too. Where a
            baseline has it measured, that is done anyway.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    children: int = field(default=8, metadata={"small": 6})
    generations: int | None = field(default=60, metadata={"small": 5})
    switches: int = 3
    preselect: int = 16
    steps: tuple[tuple[int, int], ...] = ((256, 2), (1024, 1))
    integer_program: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError, naming the option, for a value out of range."""
        for name, value in (("children", self.children), ("switches", self.switches), ("preselect", self.preselect)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if self.generations is not None and self.generations < 1:
            raise ValueError(f"generations: expected at least 1, got {self.generations}")
        if not self.steps or self.steps[-1][1] != 1:
            raise ValueError(
                f"steps: expected [images, survivors] of every step, 1 survivor of the last, got {list(self.steps)}"
            )
        before = self.children
        for place, (images, left) in enumerate(self.steps):
            if images < 1 or left > before:
                raise ValueError(
                    f"steps.{place}: expected at least 1 image and at most {before} survivors, got {[images, left]}"
                )
            before = left

    @property
    def passes(self) -> float:
        """Samples that a generation measures, as a multiple of those that the last step measures a candidate on."""
        measured = [self.children, *(left for _, left in self.steps[:-1])]
        images = [one for one, _ in self.steps]
        return 1.0 + sum(count * one for count, one in zip(measured, images, strict=True)) / images[-1]


@dataclass
class _Comparison:
    """Candidates that are measured on the same inputs, and the results so far.

    Attributes:
        candidates: The candidates; of equal ones the first wins.
        step: The inputs.
        survivors: Number of candidates that stay.
        trials: Trials told, by fingerprint.
        asked: Number of candidates asked for.
    """

    candidates: list[Candidate]
    step: Step
    survivors: int
    trials: dict[str, Trial] = field(default_factory=dict)
    asked: int = 0

    @property
    def complete(self) -> bool:
        """True if all candidates were told."""
        return len(self.trials) == len(self.candidates)


class Evolution(Algorithm[EvolutionSettings]):
    """(1 + lambda) evolution of one level per unit, within the targets; the first objective decides.

    The first trial compares the starting points (uniform, greedy, those of the problem, and the integer program's levels where
    the divergence of levels is known), each further one is a generation and has its new parent as candidate, and the last one
    compares parent and starting points on inputs that no other has seen.
    It is the result, so that no starting point is better by that measure; a budget that ends the search leaves room for it.
    Randomness follows from seed, generation and step.

    Raises:
        SecateursError: There is no target on a cost of the space, candidates are trained, or a decision has no levels.
    """

    Settings = EvolutionSettings
    measures_solved = True
    closing = 1

    def __init__(self, problem: Problem, settings: EvolutionSettings, seed: int) -> None:
        """Make the starting points."""
        super().__init__(problem, settings, seed)
        if problem.trains:
            raise SecateursError(
                "evolution compares candidates as they are cut, and training is set for them; leave search.training out, or "
                "take another algorithm, such as genetic"
            )
        encoding = ChannelEncoding(problem)
        if not encoding.constrained and not encoding.budgeted:
            raise SecateursError("evolution keeps a budget: expected a target on a cost of the space; set search.target")
        self._genomes = LevelGenome(problem, encoding)
        self._model = LevelModel(problem)
        greedy = [uniform(problem), global_magnitude(problem)]
        if settings.integer_program or (encoding.constrained and "divergence" in problem.tables):
            greedy.append(optimum(problem))
        self._starts = [one for one in dict.fromkeys([*greedy, *problem.starts]) if self._within(one)] or greedy[:1]
        self._parent = self._starts[0]
        self._seen = {one.fingerprint for one in self._starts}
        self._generation = 0
        self._open: _Comparison | None = None
        self._steps: list[dict[str, Any]] = []
        self._result: Proposal | None = None
        self._waits = self._exhausted = self._concluding = self._unguarded = self._over = False

    @classmethod
    def fewest_evaluations(cls, settings: EvolutionSettings, trains: bool) -> tuple[int, str]:
        """Return 3: the starting points, one generation, and the comparison of both."""
        return 3, "the starting points, one generation, and the comparison of both"

    @classmethod
    def reads_divergence(cls, settings: EvolutionSettings) -> bool:
        """Return whether the integer program is among the starting points."""
        return settings.integer_program

    @classmethod
    def random_control(
        cls, settings: EvolutionSettings, space: SearchSpace[Any], evaluations: int
    ) -> tuple[str, Mapping[str, Any]]:
        """Return random search that measures candidates on as many samples in all."""
        return super().random_control(settings, space, math.ceil(evaluations * settings.passes))

    def ask(self, limit: int) -> list[Proposal]:
        """Return candidates of the step that is open, or the trial that the last step came to."""
        if self._waits or self._over or limit < 1:
            return []
        if self._result is not None:
            self._waits = True
            return [self._result]
        comparison = self._open = self._open or self._begin()
        asked = comparison.candidates[comparison.asked : comparison.asked + limit]
        comparison.asked += len(asked)
        return [Proposal(candidate, step=comparison.step) for candidate in asked]

    def tell(self, trial: Trial) -> None:
        """Take a result of the step that is open, or go on from a recorded generation."""
        if trial.proposal.step is None:
            self._go_on(trial)
            return
        comparison = self._open
        if comparison is None or trial.proposal.step != comparison.step:
            return
        comparison.trials[trial.proposal.candidate.fingerprint] = trial
        if comparison.complete:
            self._select(comparison)

    def conclude(self) -> None:
        """Compare with the starting points next, unless nothing was found since that was done last."""
        self._open, self._concluding = None, True
        self._over = self._over or (self._generation > 0 and self._result is None and not self._unguarded)

    def incumbent(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the trial of the last generation, since values of two generations are measured on different inputs."""
        return next(reversed(complete_trials(trials, self._problem)), None)

    def preferred(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials of generations, the last one first: their values can't be compared, and parents improve."""
        return complete_trials(trials, self._problem)[::-1]

    @property
    def finished(self) -> bool:
        """True after the last comparison with the starting points, and where none of them can be measured."""
        return self._over

    @property
    def passes_per_trial(self) -> float:
        """Measurements of a generation, in those of a candidate in the last step."""
        return self._settings.passes

    @property
    def budget(self) -> int | None:
        """Number of generations, and the first and the last comparison with the starting points."""
        return None if self._settings.generations is None else self._settings.generations + 2

    @property
    def _kind(self) -> Kind:
        if self._generation == 0:
            return "start"
        return "guard" if self._ends else "generation"

    @property
    def _ends(self) -> bool:
        """True if no generation is left."""
        generations = self._settings.generations
        return self._exhausted or self._concluding or (generations is not None and self._generation > generations)

    def _begin(self) -> _Comparison:
        """Return the first step of what comes next."""
        self._steps = []
        if self._kind == "generation":
            children = self._children()
            if children:
                return self._step(0, children)
            self._exhausted = True
        images, last = self._settings.steps[-1][0], len(self._settings.steps) - 1
        if self._kind == "start":
            step = Step(images, self._seed_of(last), "close")
            return _Comparison(list(self._starts), step, 1)
        step = Step(GUARD_IMAGES * images, self._seed_of(last + 1), "final")
        return _Comparison(list(dict.fromkeys([self._parent, *self._starts])), step, 1)

    def _step(self, place: int, candidates: list[Candidate]) -> _Comparison:
        """Return a step of a generation, without candidates the last one; the parent takes part in that."""
        place = place if candidates else len(self._settings.steps) - 1
        images, survivors = self._settings.steps[place]
        last = place == len(self._settings.steps) - 1
        step = Step(images, self._seed_of(place), "close" if last else "rough")
        return _Comparison([self._parent, *candidates] if last else candidates, step, survivors)

    def _select(self, comparison: _Comparison) -> None:
        """Rank the candidates of a step, and open the next one or make the generation's trial."""
        objective = self._problem.objectives[0]

        def gain(candidate: Candidate) -> float:
            trial = comparison.trials[candidate.fingerprint]
            works = trial.state == "complete" and is_finite(trial.metrics, self._problem)
            return objective.gain(trial.metrics) if works else -math.inf

        ranked = sorted(comparison.candidates, key=lambda candidate: -gain(candidate))
        works = [candidate for candidate in ranked if gain(candidate) > -math.inf]
        rows = [
            {
                "fingerprint": candidate.fingerprint,
                "levels": self._genomes.genome(candidate).tolist(),
                "score": comparison.trials[candidate.fingerprint].metrics[objective.metric] if candidate in works else None,
                "rank": rank,
            }
            for rank, candidate in enumerate(ranked, start=1)
        ]
        self._steps.append({"images": comparison.step.images, "seed": comparison.step.seed, "candidates": rows})
        if self._kind == "generation" and comparison.step.form == "rough":
            self._open = self._step(len(self._steps), works[: comparison.survivors])
            return
        self._open = None
        winner = works[0] if works else comparison.candidates[0]
        measured = dict(comparison.trials[winner.fingerprint].metrics) if works else None
        notes = {"kind": self._kind, "generation": self._generation, "steps": self._steps}
        if self._exhausted:
            notes["exhausted"] = True
        self._result = Proposal(winner, measured=measured, notes=notes)

    def _go_on(self, trial: Trial) -> None:
        """Go on from the trial of a generation, measured just now or recorded earlier."""
        notes = trial.proposal.notes
        if "kind" not in notes:
            raise SecateursError(f"trial {trial.number} was not recorded by an evolution: give the run another name")
        self._open, self._result, self._waits = None, None, False
        self._seen |= {row["fingerprint"] for step in notes["steps"] for row in step["candidates"]}
        if notes["kind"] == "guard":
            self._exhausted, self._unguarded = notes.get("exhausted", False), False
            self._over = self._ends
            return
        if notes["kind"] == "generation":
            self._learn(trial)
        if trial.state == "complete":
            self._parent = trial.proposal.candidate
        if notes["kind"] == "start":
            self._over = trial.state != "complete" or self._concluding
        self._unguarded = notes["kind"] == "generation"
        self._generation = notes["generation"] + 1

    def _learn(self, trial: Trial) -> None:
        """Learn from the steps of a generation, as its trial records them."""
        objective = self._problem.objectives[0]
        self._model.forget()
        for step in trial.proposal.notes["steps"]:
            # Rows of a run that was begun before there was a model have no levels.
            known = [row for row in step["candidates"] if row["score"] is not None and "levels" in row]
            if not all(self._genomes.fits(row["levels"]) for row in known):
                raise SecateursError(
                    f"trial {trial.number} records levels that are none of the space: its record is damaged, or of another "
                    "space; give the run another name"
                )
            gains = [objective.gain({objective.metric: row["score"]}) for row in known]
            share = step["images"] / self._settings.steps[-1][0]
            self._model.learn(np.array([row["levels"] for row in known]), np.array(gains), share)

    def _children(self) -> list[Candidate]:
        """Return new candidates near the parent, fewer than asked for where there are no more."""
        rng, count = np.random.default_rng([self._seed, self._generation]), self._settings.children
        drawn = self._drawn(rng, count * self._settings.preselect)
        if len(drawn) <= count:
            return [candidate for candidate, _ in drawn]
        expected = self._model.expect(np.array([genome for _, genome in drawn]), count, rng)
        chosen = list[int]()
        for gains in expected:
            # Each draw of the model has its favourite.
            chosen.append(next(int(place) for place in np.argsort(-gains, kind="stable") if place not in chosen))
        return [drawn[place][0] for place in chosen]

    def _drawn(self, rng: np.random.Generator, count: int) -> list[tuple[Candidate, Genome]]:
        """Return at most ``count`` new candidates near the parent, with their genomes, all different."""
        parent, found = self._genomes.genome(self._parent), dict[str, tuple[Candidate, Genome]]()
        for _ in range(max(count, _TRIES * self._settings.children)):
            child = self._genomes.child(parent, rng, self._settings.switches)
            candidate = self._genomes.candidate(child)
            if candidate.fingerprint not in self._seen and self._genomes.excess(child) == 0.0:
                found[candidate.fingerprint] = candidate, child
            if len(found) == count:
                break
        return list(found.values())

    def _within(self, candidate: Candidate) -> bool:
        return self._genomes.budgeted or self._problem.violation(self._problem.space.costs(candidate)) == 0.0

    def _seed_of(self, step: int) -> int:
        return seed_of(f"{self._seed}/{self._generation}/{step}")
