"""The contract kit: an algorithm from outside passes it, and each broken promise is found."""

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from search.algorithms.base import Algorithm
from search.algorithms.testing import (
    Case,
    check_algorithm,
    check_batches,
    check_conclusion,
    check_determinism,
    check_failures,
    check_proposals,
    check_raised_budget,
    check_replay,
    small_settings,
)
from search.study.trial import Proposal
from spaces.candidate import Candidate
from spaces.errors import InvalidCandidateError
from tests.search.algorithms.synthetic_space import Interacting, SyntheticSpace, problem_of

PROBLEM = problem_of(SyntheticSpace([8, 8]), 0.5)


@dataclass(frozen=True)
class PrefixesSettings:
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    evaluations: int = field(default=64, metadata={"small": 7})


class Prefixes(Algorithm[PrefixesSettings]):
    """Keeps the first channels of both layers, from few on."""

    Settings = PrefixesSettings

    def __init__(self, problem: Any, settings: PrefixesSettings, seed: int) -> None:
        super().__init__(problem, settings, seed)
        counts = [(1 + place % 4, 1 + place // 4) for place in range(settings.evaluations)]
        masks = [["1" * kept + "0" * (8 - kept) for kept in pair] for pair in counts]
        self.candidates = [Candidate({"layer0": one, "layer1": other}) for one, other in masks]
        self.asked = self.told = 0

    def ask(self, limit):
        first, self.asked = self.asked, min(len(self.candidates), self.asked + limit)
        return [Proposal(one) for one in self.candidates[first : self.asked]]

    def tell(self, trial):
        self.told += 1
        self.asked = max(self.asked, self.told)

    @property
    def finished(self):
        return self.told >= len(self.candidates)

    @property
    def budget(self):
        return self._settings.evaluations


def case(kind, **options):
    return Case(kind, PROBLEM, small_settings(kind, **options), Interacting(PROBLEM))


def test_an_algorithm_from_outside_passes():
    check_algorithm(case(Prefixes))
    check_raised_budget(case(Prefixes, evaluations=3), case(Prefixes, evaluations=5))


def test_the_base_class_promises_nothing_that_a_plain_algorithm_would_have_to_deny():
    class Plain(Prefixes):
        budget = Algorithm.budget

    plain = case(Plain).make()
    assert (plain.budget, plain.warm_starts, plain.notes) == (None, (), {})
    assert Plain.fewest_evaluations(PrefixesSettings(), trains=True) == (1, "one candidate")
    check_algorithm(case(Plain))


def test_small_settings_take_options_before_what_is_named_as_small():
    assert small_settings(Prefixes).evaluations == 7
    assert small_settings(Prefixes, evaluations=9).evaluations == 9


class Illegal(Prefixes):
    def ask(self, limit):
        return [Proposal(Candidate({"layer0": "00000000", "layer1": "11111111"})) for _ in super().ask(limit)]


class OverBudget(Prefixes):
    budget = 3


class Endless(Prefixes):
    def ask(self, limit):
        return super().ask(limit) or [Proposal(self.candidates[0])]


class Greedy(Prefixes):
    """Exceeds the target with all it proposes."""

    def __init__(self, problem, settings, seed):
        super().__init__(problem, settings, seed)
        self.candidates = [Candidate({"layer0": "1" * 8, "layer1": "1" * 8})]


class FromNowhere(Prefixes):
    def ask(self, limit):
        return [Proposal(one.candidate, 1.0, warm_start=5) for one in super().ask(limit)]


class ByBatch(Prefixes):
    """Proposes a batch from its end."""

    def ask(self, limit):
        return super().ask(limit)[::-1]


class Hasty(Prefixes):
    """Turns around what is left after every trial."""

    def tell(self, trial):
        super().tell(trial)
        self.candidates[self.asked :] = self.candidates[self.asked :][::-1]


class Global(Prefixes):
    """Shuffles by the global generator."""

    def __init__(self, problem, settings, seed):
        super().__init__(problem, settings, seed)
        random.shuffle(self.candidates)


class Sharing(Prefixes):
    """Counts over all searches."""

    places: ClassVar[list[int]] = []

    def ask(self, limit):
        self.places.append(0)
        found = super().ask(limit)
        return found[::-1] if limit > 1 or len(self.places) % 2 else [Proposal(one.candidate, 0.5) for one in found]


class Forgetful(Prefixes):
    """Proposes recorded trials again."""

    def tell(self, trial):
        self.told += 1


class Fragile(Prefixes):
    """Waits for ever after a failed trial."""

    def tell(self, trial):
        if trial.state == "complete":
            super().tell(trial)

    def ask(self, limit):
        return super().ask(limit) or [Proposal(self.candidates[0], 0.5)]


class Unending(Prefixes):
    """Says that it concludes, and goes on."""

    closing = 1


@pytest.mark.parametrize(
    ("kind", "check", "message"),
    [
        (OverBudget, check_proposals, "budget: 3, but there are 7 trials"),
        (Endless, check_proposals, "finished, yet ask returns proposals"),
        (Greedy, check_proposals, "exceeds a target"),
        (FromNowhere, check_proposals, "expected the number of a told trial, got 5"),
        (ByBatch, check_batches, "does not equal asking seven times for one"),
        (Hasty, check_batches, "."),
        (Global, check_determinism, "a global random generator is moved"),
        (Sharing, check_determinism, "beside another search"),
        (Forgetful, check_replay, "goes on otherwise than recorded"),
        (Fragile, check_failures, "does not end"),
        (Unending, check_conclusion, "told to conclude after 1 trials, it is not finished after 2 more"),
    ],
)
def test_a_broken_promise_is_found(kind, check, message):
    with pytest.raises(AssertionError, match=message):
        check(case(kind))


def test_an_illegal_candidate_is_named():
    with pytest.raises(InvalidCandidateError, match="layer0"):
        check_proposals(case(Illegal))


def test_a_search_that_ignores_its_budget_has_no_raised_one():
    class Stubborn(Prefixes):
        def __init__(self, problem, settings, seed):
            super().__init__(problem, PrefixesSettings(4), seed)

    with pytest.raises(AssertionError, match="expected more than 4 trials"):
        check_raised_budget(case(Stubborn, evaluations=3), case(Stubborn, evaluations=5))
