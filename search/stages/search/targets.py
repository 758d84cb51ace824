"""Targets of a search: limits in the metric's unit, from limits relative to the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from evaluators.base import EvaluationContext, Evaluator
from evaluators.metrics import find_metric
from evaluators.task import Task
from search.config.block import Limit
from search.run.network import Network
from search.study.problem import Target, within_reach
from spaces.base import SearchSpace
from spaces.errors import SecateursError


def resolve_targets(limits: Mapping[str, Limit], reference: Callable[[str], float]) -> list[Target]:
    """Return the limits in the metrics' units.

    Args:
        limits: The limit of every metric, a share of the reference's value or a number.
        reference: Returns the reference's value of a metric; called for relative limits only.
    """
    return [Target(metric, limit.absolute(reference(metric) if limit.relative else 0.0)) for metric, limit in limits.items()]


SPREAD = 0.25
"""Share by which a measured time may be too long without making a target unreachable (ours)."""

NEAR = 0.1
"""Share by which a limit is above what the smallest network takes, up to which there is a warning (ours)."""


def measured_targets(
    limits: Mapping[str, Limit],
    measured: Mapping[str, Callable[[], float]],
    smallest: Callable[[], float | None],
    remedy: str,
) -> Iterator[str]:
    """Yield a line per limit on a cost that is measured, with the reference's cost and its reach beside it.

    A limit that the reference keeps already is no error, since the next measurement may differ, but the line says so.

    Args:
        limits: The limit of every metric.
        measured: Returns the reference's value, by the name of a measured metric.
        smallest: Returns the value of the smallest network of the space, None where that is not known.
        remedy: Advice for a limit that even the smallest network does not keep.

    Raises:
        SecateursError: The smallest network exceeds a limit by more than :data:`SPREAD`.
    """
    for metric in (name for name in limits if name in measured):
        value, limit, text = measured[metric](), limits[metric], find_metric(metric).text
        allowed = limit.absolute(value)
        if allowed >= value:
            yield f"warning: {metric} {limit} asks for nothing: the network before has {text(value)}, and a slower one would do"
            continue
        lowest = smallest()
        if lowest is not None and lowest > allowed * (1.0 + SPREAD):
            raise SecateursError(
                f"target.{metric}: {limit} is {text(allowed)}, and the smallest network in this space takes {text(lowest)}, "
                f"the network before {text(value)}; {remedy}"
            )
        reach = "" if lowest is None else f", the smallest in this space {text(lowest)}"
        line = f"{metric} {limit} is {text(allowed)}: the network before has {text(value)}{reach}"
        if lowest is not None and lowest * (1.0 + NEAR) > allowed:
            line = f"warning: {line}, so near that another measurement may put it out of reach: ask for less"
        yield line


def reachable_targets(targets: Sequence[Target], space: SearchSpace[Any], log: Callable[[str], None]) -> list[Target]:
    """Return the targets, those below the cost of the smallest candidate raised to that cost, which the log is told of.

    For a network that earlier stages have left: nobody would want a run to fail on what they left.
    """
    reachable = [within_reach(target, space) for target in targets]
    for target, lowest in zip(targets, reachable, strict=True):
        if target != lowest:
            log(
                f"target {target.metric} <= {target.limit:g} is out of reach of the network that the stages before have "
                f"left: the smallest of the space has {lowest.limit:g}, and is what is sought"
            )
    return reachable


def reference_value(metric: str, evaluators: Sequence[Evaluator], network: Network, task: Task, device: torch.device) -> float:
    """Return the value of ``metric`` of a network, measured by the evaluator that has it; 0 where none has."""
    model = network.copy().model.to(device).eval()
    for evaluator in evaluators:
        if metric in evaluator.metrics_for(task):
            context = EvaluationContext(task, torch.Generator().manual_seed(0), device, 1.0, network.model, {})
            return evaluator.evaluate(model, context)[metric]
    return 0.0
