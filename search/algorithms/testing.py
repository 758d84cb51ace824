"""Check that an algorithm keeps its interface: contract tests for the registered ones and for your own.

Every ``check_`` function raises AssertionError with the broken promise, and returns None::

    case = Case(MyAlgorithm, problem, small_settings(MyAlgorithm), measure)
    check_algorithm(case)

A field of the settings may name a value for a small search, ``field(default=32, metadata={"small": 8})``.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from search.algorithms.base import Algorithm
from search.study.pareto import complete_trials
from search.study.problem import Problem
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from spaces.testing import check_settings

Measure = Callable[[Candidate, float], Mapping[str, float]]
"""Returns the metrics of a candidate at a fidelity: objectives and analytic costs, the same whenever it is called."""

BATCH = 8
MOST = 10_000
"""Largest number of trials of a search in a check; one that does not end by then never ends."""


@dataclass(frozen=True)
class Case:
    """An algorithm and a problem to check it on.

    Attributes:
        kind: Class of the algorithm.
        problem: Problem with analytic costs that the algorithm can search.
        settings: Settings of a search that ends after a few dozen trials, at least three.
        measure: Metrics of a candidate.
    """

    kind: type[Algorithm[Any]]
    problem: Problem
    settings: Any
    measure: Measure

    def make(self, seed: int = 0) -> Algorithm[Any]:
        """Return the algorithm at its start."""
        return self.kind(self.problem, self.settings, seed)

    def run(self, seed: int = 0, batch: int = BATCH) -> list[Trial]:
        """Return the trials of a whole search."""
        return drive(self.make(seed), self.measure, batch)


def small_settings(kind: type[Algorithm[Any]], **options: Any) -> Any:
    """Return settings of a small search: ``options``, else the values that fields name as ``small``, else defaults."""
    small = {one.name: one.metadata["small"] for one in fields(kind.Settings) if "small" in one.metadata}
    return kind.Settings(**{**small, **options})


def drive(algorithm: Algorithm[Any], measure: Measure, batch: int = BATCH, most: int = MOST, first: int = 0) -> list[Trial]:
    """Run ``algorithm`` to its end, or for ``most`` trials, as a search stage does: told in number order.

    Args:
        algorithm: The algorithm, at its start or after earlier trials.
        measure: Metrics of a candidate.
        batch: Number of proposals to ask for at a time.
        most: Largest number of trials.
        first: Number of the first trial.
    """
    trials: list[Trial] = []
    while not algorithm.finished and len(trials) < most:
        proposals = algorithm.ask(min(batch, most - len(trials)))
        assert proposals or algorithm.finished, "ask returns no proposal, although every trial was told and it is not finished"
        check_asked(proposals)
        told = [measured(first + len(trials) + place, one, measure) for place, one in enumerate(proposals)]
        for trial in told:
            algorithm.tell(trial)
        trials += recorded(told)
    return trials


def check_asked(proposals: Sequence[Proposal]) -> None:
    """Check that proposals with a step come alone, and that none carries metrics that it is still to be measured for."""
    steps = [one for one in proposals if one.step is not None]
    assert len(steps) in (0, len(proposals)), "proposals with a step come beside others"
    assert all(one.measured is None for one in steps), "a proposal with a step carries metrics"
    for one in proposals:
        assert json.loads(json.dumps(dict(one.notes))) == one.notes, f"notes: expected JSON data, got {one.notes}"


def recorded(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that a study records: those of proposals without a step."""
    return [trial for trial in trials if trial.proposal.step is None]


def measured(number: int, proposal: Proposal, measure: Measure) -> Trial:
    """Return a complete trial, with the metrics that the proposal carries where it does."""
    metrics = measure(proposal.candidate, proposal.fidelity) if proposal.measured is None else proposal.measured
    return Trial(number, proposal, "complete", metrics, seconds=proposal.fidelity)


def failed(number: int, proposal: Proposal) -> Trial:
    """Return a failed trial."""
    return Trial(number, proposal, "failed", {}, error="synthetic failure")


def check_algorithm(case: Case) -> None:
    """Check everything that an algorithm promises, in about twenty searches."""
    check_settings(case.kind.Settings)
    check_proposals(case)
    check_batches(case)
    check_determinism(case)
    check_replay(case)
    check_failures(case)
    check_conclusion(case)


def check_proposals(case: Case) -> None:
    """Check that proposals are legal and within the budget, and that the best candidate keeps the targets."""
    problem, algorithm = case.problem, case.make()
    budget, seen, trials = algorithm.budget, set(), []
    for trial in _stepwise(algorithm, case.measure):
        proposal = trial.proposal
        problem.space.validate(proposal.candidate)
        assert 0.0 <= proposal.fidelity <= 1.0, f"fidelity: expected a share from 0 to 1, got {proposal.fidelity}"
        start = proposal.warm_start
        assert start is None or start in seen, f"warm_start: expected the number of a told trial, got {start}"
        if proposal.step is None:
            seen.add(trial.number)
            trials.append(trial)
    assert trials, "a search without trials"
    assert budget is None or len(trials) <= budget, f"budget: {budget}, but there are {len(trials)} trials"
    assert algorithm.ask(5) == [], "finished, yet ask returns proposals"
    chosen = algorithm.incumbent(trials)
    assert chosen is not None, "no candidate is measured in full"
    assert problem.violation(problem.space.costs(chosen.proposal.candidate)) == 0.0, "the best candidate exceeds a target"


def check_batches(case: Case) -> None:
    """Check that the size of the batches, and telling between proposals, do not change the proposals."""
    one, many = _proposals(case.run(batch=1)), _proposals(case.run(batch=7))
    assert one == many, "asking once for seven proposals does not equal asking seven times for one"
    late, early = case.make(), case.make()
    asked, stepwise = late.ask(BATCH), []
    for number in range(len(asked)):
        stepwise += early.ask(1)
        early.tell(measured(number, stepwise[-1], case.measure))
    assert stepwise == asked, "a trial told while proposals of the same batch are out changes the others of the batch"


def check_determinism(case: Case) -> None:
    """Check that trials follow from the seed alone: no global generator is read or moved, and no state is shared."""
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generators are watched
    before = _global_states()
    alone = case.run(seed=3)
    assert _global_states() == before, "a global random generator is moved"
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    searches = [_stepwise(case.make(seed), case.measure) for seed in (3, 4)]
    interleaved: list[list[Trial]] = [[], []]
    left = [0, 1]
    while left:
        for index in tuple(left):
            trial = next(searches[index], None)
            if trial is None:
                left.remove(index)
            else:
                interleaved[index].append(trial)
    same = _proposals(recorded(interleaved[0])) == _proposals(alone)
    assert same, "beside another search, or other global generators, trials differ"


def check_replay(case: Case) -> None:
    """Check that an algorithm told recorded trials, with or without being asked first, goes on as the recorded search.

    The trials are read back from JSON, as a resumed search reads them; those of steps are not told again.
    """
    live = case.run()
    for cut in sorted({1, len(live) // 2, len(live) - 1} & set(range(1, len(live)))):
        asked, told = case.make(), case.make()
        start = 0
        while start < cut:
            again = asked.ask(min(BATCH, cut - start))
            # Instead of steps the trial that they came to is told.
            steps = any(one.step is not None for one in again)
            known = [_read_back(trial) for trial in live[start : start + (1 if steps else len(again))]]
            assert steps or again == _proposals(known), f"asked again, other proposals than recorded from trial {start}"
            for trial in known:
                asked.tell(trial)
                told.tell(trial)
            start += len(known)
        for algorithm, way in ((asked, "asked and told"), (told, "told")):
            assert not algorithm.finished, f"{way} {cut} of {len(live)} trials, it is finished"
            rest = _proposals(drive(algorithm, case.measure, first=cut))
            assert rest == _proposals(live[cut:]), f"{way} {cut} recorded trials, it goes on otherwise than recorded"


def check_failures(case: Case) -> None:
    """Check that failed trials and trials without a finite metric are survived, and that a search of nothing else ends."""

    def not_finite(number: int, proposal: Proposal) -> Trial:
        first = case.problem.objectives[0].metric
        metrics = {**case.measure(proposal.candidate, proposal.fidelity), first: math.nan}
        return Trial(number, proposal, "complete", metrics)

    for bad in (failed, not_finite):
        some = _with_failures(case, bad, every=3)
        assert complete_trials(some, case.problem), "after a failed trial no candidate is measured in full"
        algorithm = case.make()
        every = _with_failures(case, bad, every=1)
        assert every, "a search without trials"
        assert algorithm.budget is None or len(every) <= algorithm.budget, "more trials than the budget if all fail"


def check_conclusion(case: Case) -> None:
    """Check that a search that is to conclude, at its beginning or later, asks for no more trials than it says."""
    closing = case.kind.closing
    for spent in (1, 3) if closing else ():
        algorithm = case.make()
        drive(algorithm, case.measure, most=spent)
        algorithm.ask(1)
        algorithm.conclude()
        rest = drive(algorithm, case.measure, most=closing + 1, first=spent)
        assert algorithm.finished, f"told to conclude after {spent} trials, it is not finished after {len(rest)} more"
        assert len(rest) <= closing, f"closing: {closing}, but it concludes with {len(rest)} trials"


def check_raised_budget(less: Case, more: Case) -> None:
    """Check that a search with a larger budget begins with the trials of the smaller one.

    Args:
        less: The algorithm with a budget.
        more: The same with a larger one.
    """
    few, many = _proposals(less.run()), _proposals(more.run())
    assert len(few) < len(many), f"expected more than {len(few)} trials, got {len(many)}"
    assert many[: len(few)] == few, "a raised budget changes the first trials"


def _stepwise(algorithm: Algorithm[Any], measure: Measure) -> Iterator[Trial]:
    """Yield the trials of a search, each told before the next one, and check what it may start from."""
    number, kept = 0, None
    while not algorithm.finished and number < MOST:
        proposals = algorithm.ask(1)
        assert proposals or algorithm.finished, "ask returns no proposal, although every trial was told and it is not finished"
        for proposal in proposals:
            start = proposal.warm_start
            assert start is None or kept is None or start in kept, f"trial {start} is started from, but not in warm_starts"
            trial = measured(number, proposal, measure)
            algorithm.tell(trial)
            now = set(algorithm.warm_starts)
            assert kept is None or now <= kept | {number}, "a number that had left warm_starts returns"
            kept = now
            number += proposal.step is None
            yield trial


def _read_back(trial: Trial) -> Trial:
    """Return a trial that was written as JSON and read back."""
    candidate = Candidate.from_json(trial.proposal.candidate.to_json())
    metrics, notes = (json.loads(json.dumps(dict(one))) for one in (trial.metrics, trial.proposal.notes))
    return replace(trial, proposal=replace(trial.proposal, candidate=candidate, notes=notes), metrics=metrics)


def _with_failures(case: Case, bad: Callable[[int, Proposal], Trial], every: int) -> list[Trial]:
    """Return the trials of a search in which every ``every``-th one is ``bad``."""
    algorithm, trials = case.make(), list[Trial]()
    while not algorithm.finished and len(trials) < MOST:
        for proposal in algorithm.ask(4):
            number = len(trials)
            fails = number % every == min(1, every - 1) and proposal.measured is None
            trials.append(bad(number, proposal) if fails else measured(number, proposal, case.measure))
            algorithm.tell(trials[-1])
    assert algorithm.finished, f"it does not end within {MOST} trials"
    return recorded(trials)


def _global_states() -> tuple[object, ...]:
    _, keys, position, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), np.asarray(keys).tobytes(), position, *rest


def _proposals(trials: Sequence[Trial]) -> list[Proposal]:
    return [trial.proposal for trial in trials]
