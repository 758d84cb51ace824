"""The check of a search before anything runs: goals, and the time that candidates take."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from evaluators.cost import count_costs
from search.algorithms.base import Algorithm
from search.executors.remote_timer import evaluators_of
from search.run.network import Network
from search.run.stage_run import DryRun
from search.stages.search.context import SearchContext
from search.stages.search.goals import require_scores, targets_within_reach
from search.stages.search.passes import final_limits
from search.stages.search.settings import SearchSettings
from search.stages.search.space import require_informative_objective, space_of
from search.study.trial import Proposal
from spaces.candidate import Candidate
from spaces.execution.batch import to_device
from spaces.quantization.cost import average_weight_bits

TIMED_SAMPLES = 512
"""Samples on which a candidate is timed in a check."""


def check_goals(settings: SearchSettings, network: Network, run: DryRun) -> None:
    """Check that the space has decisions, that all goals are measured, and that targets are within reach.

    Raises:
        SecateursError: One of them is not so; the message names it and a remedy.
    """
    task = run.task
    evaluators = evaluators_of(settings.evaluate, run.execution)
    require_scores(settings, evaluators, task)
    space = space_of(network, run, settings.space)
    for evaluator in evaluators:
        evaluator.check(space)
        evaluator.check_network(network.model, task)
    require_informative_objective(space, list(settings.objectives))
    run.tell(f"{len(space.domains)} decisions open")
    if not run.smaller:
        whole = count_costs(network.model, to_device(task.traced_inputs(), run.device), task.forward)
        whole["weight_bits"] = average_weight_bits(network.model)
        limits = settings.limits if settings.passes is None else final_limits(settings)
        for line in targets_within_reach(limits, space, whole):
            run.tell(line)


def tell_time(
    settings: SearchSettings, context: SearchContext, algorithm: Algorithm[Any], candidate: Candidate, run: DryRun
) -> None:
    """Time one candidate on a part of the samples, and note the seconds of the whole search, and of a random baseline."""
    limits = [limit for limit in (algorithm.budget, settings.budget.evaluations) if limit is not None]
    seconds = settings.budget.seconds
    asked = next((proposal for proposal in algorithm.ask(1)), Proposal(candidate))
    share = 1.0 if asked.step is not None else min(1.0, TIMED_SAMPLES / run.task.size("search"))
    proposal = replace(asked, fidelity=share, warm_start=None)
    context.evaluator.measure(proposal)
    began = time.perf_counter()
    made = context.evaluator.build(proposal)
    built = time.perf_counter()
    context.evaluator.score(made.model, proposal)
    one = built - began + (time.perf_counter() - built) / share
    whole = one * algorithm.passes_per_trial * min(limits) if limits else seconds
    if whole is not None:
        whole = whole if seconds is None else min(whole, seconds)
        run.seconds.append((f"at most {min(limits)} trials" if limits else "trials", whole))
        if "random" in settings.baselines:
            run.seconds.append(("random search beside it", whole))
