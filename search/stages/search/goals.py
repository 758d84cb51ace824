"""Checks of a search's goals: evaluators, objectives, targets and budget against each other, and against a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluators.metrics import METRICS, find_metric
from search.config.block import Block, Limit
from search.config.document import Path
from search.config.registries import ALGORITHM, EVALUATOR, SPACE
from search.config.stage_kind import Surroundings
from search.output.numbers import format_count, format_percent
from search.stages.search.settings import SearchSettings
from spaces.errors import SecateursError
from spaces.registry import suggestion

if TYPE_CHECKING:
    from torch import nn

    from evaluators.base import Evaluator
    from evaluators.task import Task
    from search.algorithms.base import Algorithm
    from spaces.base import SearchSpace


def goal_faults(settings: SearchSettings, surroundings: Surroundings) -> Iterable[tuple[Path, str]]:
    """Yield the faults in what a search measures and seeks: the path below the stage's options, and a message."""
    metrics: dict[str, Any] = {}
    for index, block in enumerate(settings.evaluate):
        for name, metric in EVALUATOR.build(block).metrics.items():
            if name in metrics:
                yield ("evaluate", index), f"{block.name} measures {name!r}, which an evaluator before it measures too"
            metrics[name] = metric
    for name, direction in settings.objectives.items():
        if name not in metrics:
            if not surroundings.own_scores:
                yield ("objectives", name), f"no evaluator measures {name!r}; {suggestion(name, metrics)}"
        elif metrics[name].direction != direction:
            message = f"{name} is better the other way; expected {metrics[name].direction}, got {direction}"
            yield ("objectives", name), message
    yield from _score_faults(settings, metrics, surroundings)
    for name in settings.limits:
        costs = [other for other, metric in metrics.items() if metric.direction == "minimize"]
        if name not in metrics:
            yield ("target", name), f"no evaluator measures {name!r}; {suggestion(name, costs)}"
        elif metrics[name].direction != "minimize":
            yield ("target", name), f"{name} is no cost, and a target is an upper limit; {suggestion(name, costs)}"
    if "maximize" not in settings.objectives.values() and all(
        name in metrics and metrics[name].is_cost for name in settings.objectives
    ):
        message = "seeks small costs only, which the smallest network has; add what must stay high, such as top1: maximize"
        yield ("objectives",), message
    yield from _too_few_evaluations(settings)
    if surroundings.several_workers:
        yield from _disturbed_timings(settings)


def _score_faults(
    settings: SearchSettings, metrics: Mapping[str, Any], surroundings: Surroundings
) -> Iterable[tuple[Path, str]]:
    """Yield the faults in limits on scores."""
    for place, (name, limit) in enumerate(settings.score_limits.items()):
        path = ("target", name)
        known = metrics.get(name) or METRICS.get(name)
        if known is None and not surroundings.own_scores:
            yield path, f"no evaluator measures {name!r}; {suggestion(name, metrics)}"
        elif known is not None and known.is_cost:
            yield path, f'expected a limit from above, written "<= {limit.value:g}{limit.unit}"; got {str(limit)!r}'
            continue
        elif known is not None and limit.lower != (known.direction == "maximize"):
            way = ">= -" if known.direction == "maximize" else "<= +"
            yield path, f"{name} is better the other way: expected {way}{abs(limit.value):g}{limit.unit}, got {str(limit)!r}"
        if place > 0:
            yield path, "expected one limit on a score, got two"
        if settings.algorithm.name != "integer_program":
            message = (
                "the smallest network that keeps a score is found by the integer program: expected algorithm: integer_program, "
                f"got {settings.algorithm.name}"
            )
            yield path, message
        if settings.training is not None:
            yield path, "expected no search.training, whose candidates no table tells the score of; remove one of both"
        if settings.finalists is not None and settings.finalists.steps:
            yield path, "one network is found, so that there is nothing to halve: expected finalists without steps"
        if "random" in settings.baselines:
            yield path, "the random baseline has no search to be as long as here; remove it from baselines"


def _too_few_evaluations(settings: SearchSettings) -> Iterable[tuple[Path, str]]:
    block, evaluations = settings.algorithm, settings.budget.evaluations
    if evaluations is None:
        return
    algorithm: type[Algorithm[Any]] = ALGORITHM.find(block.name)
    first, named = algorithm.fewest_evaluations(block.settings, settings.training is not None)
    if evaluations < first:
        yield ("budget", "evaluations"), f"expected at least {first}, {named}; got {evaluations}"


def _disturbed_timings(settings: SearchSettings) -> Iterable[tuple[Path, str]]:
    """Refuse to time candidates while others are evaluated on the same machine."""
    for index, block in enumerate(settings.evaluate):
        if EVALUATOR.build(block).undisturbed:
            message = (
                "trials in other workers would disturb what is measured; expected mode: table, resource: NAME (a node on which "
                "no trials run), or execution.workers: 1"
            )
            yield ("evaluate", index, block.name), message


def build_space(block: Block, model: nn.Module, task: Task) -> SearchSpace[Any]:
    """Return the space that ``block`` describes over ``model``, without batches to calibrate on."""
    space: SearchSpace[Any] = SPACE.find(block.name)(model, task.traced_inputs(), block.settings, forward=task.forward)
    return space


def require_scores(settings: SearchSettings, evaluators: Sequence[Evaluator], task: Task) -> None:
    """Raise SecateursError unless every objective and target is measured for ``task``."""
    known = [metric for evaluator in evaluators for metric in evaluator.metrics_for(task)]
    own = [task.score_name, "loss", *task.meters()]
    for metric in (*settings.objectives, *settings.target):
        if metric not in known and not (metric in settings.score_limits and metric in own):
            raise SecateursError(f"no evaluator measures {metric!r} for this task; {suggestion(metric, known)}")


def targets_within_reach(targets: Mapping[str, Limit], space: SearchSpace[Any], whole: Mapping[str, float]) -> Iterator[str]:
    """Yield a line per target that the cheapest network of ``space`` meets.

    Args:
        targets: Limits by metric.
        space: The space over the whole network.
        whole: Costs of the whole network by metric.

    Raises:
        SecateursError: A target is out of reach, met already, or on a cost that nothing in the space lowers.
    """
    smallest = space.cheapest()
    lowest = space.costs(smallest) if smallest is not None else {}
    if smallest is not None and not space.quantizers:
        lowest = {"weight_bits": whole.get("weight_bits", 0.0), **lowest}
    remedy = space.target_remedy
    for metric, limit in targets.items():
        if metric not in whole or metric not in lowest:
            continue
        allowed = limit.absolute(whole[metric])
        if lowest[metric] >= whole[metric] > allowed:
            others = " or ".join(cost for cost in lowest if cost in whole and lowest[cost] < whole[cost])
            raise SecateursError(f"target.{metric}: nothing in this space lowers {metric}; set a target on {others}")
        if lowest[metric] > allowed:
            if not limit.relative and limit.value < 1:
                remedy = f'a share of the whole is written "<= {limit.value * 100:g}%"'
            raise SecateursError(
                f"target.{metric}: {limit} is {format_count(allowed)}, and the smallest network in this space has "
                f"{format_count(lowest[metric])} ({format_percent(lowest[metric] / whole[metric])} of the whole); {remedy}"
            )
        if whole[metric] <= allowed:
            raise SecateursError(f"target.{metric}: the network has {format_count(whole[metric])} already, within {limit}")
        share, value = format_percent(lowest[metric] / whole[metric]), find_metric(metric).text(lowest[metric])
        yield f"{metric} {limit} is within reach, down to {share if limit.relative else value}"
