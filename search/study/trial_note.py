"""Write the note that the dashboard shows beside a trial: costs and metrics of its network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evaluators.metrics import find_metric
from search.output.numbers import format_percent
from search.output.progress import duration
from spaces.execution.batch import to_device

if TYPE_CHECKING:
    import torch

    from evaluators.task import Task
    from search.run.network import Network
    from search.study.problem import Problem
    from search.study.trial import Trial

NOTE = "note"


def trial_note(trial: Trial, problem: Problem, reference: Mapping[str, float]) -> str:
    """Return the note of a trial in Markdown: metrics with their share of the reference's, fidelity, fingerprint.

    Args:
        trial: The trial.
        problem: Objectives, targets and the space, which predicts the costs that were not measured.
        reference: Costs of the reference network, by metric.
    """
    candidate, fidelity = trial.proposal.candidate, trial.proposal.fidelity
    values = {**trial.metrics, **{name: value for name, value in problem.space.costs(candidate).items() if name in reference}}
    lines = ["| | value | of the reference |", "|---|---|---|"]
    for name, value in values.items():
        share = format_percent(value / reference[name]) if reference.get(name) else ""
        metric = find_metric(name)
        lines.append(f"| {metric.label} | {metric.text(value)} | {share} |")
    for target in problem.targets:
        met = target.metric in values and target.violation(values) == 0.0
        metric = find_metric(target.metric)
        limit = f"{metric.label} <= {metric.text(target.limit)}"
        lines.append(f"| target: {limit} | {'met' if met else 'not met'} | |")
    rest = f"fidelity {fidelity:g}, measured in {duration(trial.seconds)}, fingerprint `{candidate.fingerprint}`"
    return "\n".join([*lines, "", rest, *(["", f"failed: {trial.error}"] if trial.error else [])])


def costs_of(network: Network, task: Task, device: torch.device) -> dict[str, float]:
    """Return the costs of a network, by metric."""
    from evaluators.cost import count_costs

    return count_costs(network.model.to(device), to_device(task.traced_inputs(), device), task.forward)
