"""Measurements of the networks in a report, each made once and stored at once, unless it failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeVar

import torch
from pydantic import Field
from torch import nn
from typing_extensions import TypedDict

from evaluators.base import EvaluationContext, Evaluator, require_metrics
from evaluators.cost import count_costs, count_module_macs
from evaluators.task import Task
from evaluators.tasks.answers import Answers
from evaluators.tasks.measure import Measured as Figures
from evaluators.tasks.measure import measure_with_errors
from search.output.log_records import PACKAGE
from search.run.failures import Failures
from search.run.record_file import RecordFile, Tell, checked
from spaces.execution.batch import count_samples, to_device
from spaces.files.reading import DamagedFileError

T = TypeVar("T")
Count = Annotated[int, Field(ge=0)]
MEASURED_AGAIN = "its figures are measured again"


class Measured(TypedDict):
    """A stored row: of the network with hash ``key``."""

    key: Annotated[str, Field(min_length=1, max_length=64)]
    row: dict[str, Any] | None


class MeasuredSample(TypedDict):
    """A sample whose answer changed, as :class:`.Answers` keeps it."""

    index: Count
    label: int
    before: int
    after: int
    picture: dict[str, int | str] | None


class MeasuredAnswers(TypedDict):
    """The answers of a network, as :class:`.Answers` returns them."""

    labels: list[int]
    guesses: list[int]
    samples: list[MeasuredSample]
    names: NotRequired[list[str] | None]


class MeasuredRow(TypedDict):
    """A row of :func:`measure_row`."""

    top1: float | None
    loss: float | None
    metrics: dict[str, float | None]
    parameters: Count
    macs: Count
    size_bytes: Count
    bit_operations: Count
    latency_ms: Annotated[float, Field(ge=0.0)] | None
    standard_errors: NotRequired[dict[str, Annotated[float, Field(ge=0.0)]]]
    resamples: NotRequired[Count | None]
    module_macs: NotRequired[dict[str, Count]]
    answers: NotRequired[MeasuredAnswers | None]


COUNTED = ("parameters", "macs", "size_bytes", "bit_operations")
"""Costs that are counted on every network of a report, whole numbers."""


DETAILS = ("answers", "module_macs")
"""Parts of a row that the report has not under the network, but as comparisons of two."""


class Measurements:
    """Store of measured rows, by the role of the network; a resumed run reads them back.

    Args:
        path: JSON file of the store.
        failures: Place of what could not be measured.
        tell: Takes a line about a damaged file.
        earlier: Store of another run, which is only read: rows of the same networks are taken over; None without one.
    """

    def __init__(self, path: Path, failures: Failures, tell: Tell = PACKAGE.warning, earlier: Path | None = None) -> None:
        """Read the rows that an earlier run has stored."""
        self._failures, self._tell = failures, tell
        self._file = RecordFile(path, dict[str, Measured], MEASURED_AGAIN, tell)
        self._rows: dict[str, Any] = {**(self._file.read() or {})}
        self._earlier = None if earlier is None else RecordFile(earlier, dict[str, Measured], MEASURED_AGAIN, tell)

    def row(self, role: str, key: str, measured: Callable[[], T], kind: Any = Any) -> T:
        """Return the stored row of a network, else measure it.

        A row is stored unless a part of it failed: the same command measures that again.

        Args:
            role: The network's role.
            key: Its hash: a row of another network is measured again.
            measured: Measures the row.
            kind: Type of the row, such as a ``TypedDict``; one of another type is told, and measured again.
        """
        if self._has(self._rows, self._file.path, role, key, kind):
            known: T = self._rows[role]["row"]
            return known
        if self._earlier is not None and self._has(theirs := self._theirs, self._earlier.path, role, key, kind):
            self._keep(role, theirs[role])
            return self.row(role, key, measured, kind)
        before = len(self._failures.rows)
        row = self._failures.finite(role, measured())
        if len(self._failures.rows) == before:
            self._keep(role, {"key": key, "row": row})
        return row

    @cached_property
    def _theirs(self) -> dict[str, Any]:
        """The rows of the other run, by role."""
        return {} if self._earlier is None else {**(self._earlier.read() or {})}

    def _has(self, rows: Mapping[str, Any], path: Path, role: str, key: str, kind: Any) -> bool:
        """Return whether there is a valid row of the network; an invalid one is told."""
        if rows.get(role, {}).get("key") != key:
            return False
        try:
            checked(rows[role]["row"], kind, f"{path}: {role}")
        except DamagedFileError as error:
            self._tell(f"{error}: {MEASURED_AGAIN}")
            return False
        return True

    def _keep(self, role: str, row: Mapping[str, Any]) -> None:
        self._rows[role] = row
        self._file.write(self._rows)


def measure_row(
    role: str,
    model: nn.Module,
    task: Task,
    device: torch.device,
    failures: Failures,
    evaluators: Sequence[Evaluator] = (),
    answers: Answers | None = None,
) -> dict[str, Any]:
    """Return scores on the test split, and costs, of one network as report.json has them.

    ``top1`` is null for a task without it, ``metrics`` are the task's other scores, ``standard_errors`` those of scores as far
    as they are known, ``resamples`` the draws behind those of metrics that accumulate (null without such a metric),
    ``size_bytes`` all tensors of weights.safetensors, ``latency_ms`` is null where it was not measured. Costs that only
    ``evaluators`` measure stand under their own names. Null is, too, what ``failures`` got the error of.

    Args:
        role: Name of the network in the report.
        model: The network.
        task: Data, loss and score.
        device: Device that the network runs on.
        failures: Place of what could not be measured.
        evaluators: Evaluators of costs that this project does not know.
        answers: Place of the answers to test samples. With it the row has :data:`DETAILS`: ``answers``
            (:meth:`.Answers.to_json`) and ``module_macs``, multiply-accumulates by module, in the order of the forward pass.
    """
    none: dict[str, float] = {}
    figures = failures.attempt(
        f"{role}: scores on the test split",
        partial(measure_with_errors, model, task, "test", device=device, answers=answers),
        Figures({}, {}),
    )
    scores = dict(figures.values)
    costs = failures.attempt(f"{role}: costs", partial(_counted, model, task, device), none)
    counted = {name: int(costs[name]) if name in costs else None for name in COUNTED}
    top1, loss = scores.pop("top1", None), scores.pop("loss", None)
    row = {"top1": top1, "loss": loss, "metrics": scores, **counted, "latency_ms": None}
    row |= {"standard_errors": figures.standard_errors, "resamples": figures.resamples}
    if answers is not None:
        count = partial(_by_module, model, task, device)
        modules = failures.attempt(f"{role}: costs by module", count, dict[str, int]()) if costs else {}
        details: dict[str, Any] = {"answers": answers.to_json(), "module_macs": modules}
        row |= details
    for evaluator in evaluators:
        found = failures.attempt(
            f"{role}: {type(evaluator).__name__}", partial(_own_costs, evaluator, model, task, device), none
        )
        row |= {name: value for name, value in found.items() if name not in row}
    return row


def _counted(model: nn.Module, task: Task, device: torch.device) -> dict[str, float]:
    return count_costs(model, to_device(task.traced_inputs(), device), task.forward)


def _by_module(model: nn.Module, task: Task, device: torch.device) -> dict[str, int]:
    inputs = to_device(task.traced_inputs(), device)
    samples = count_samples(inputs)
    return {name: macs // samples for name, macs in count_module_macs(model, inputs, task.forward).items()}


def _own_costs(evaluator: Evaluator, model: nn.Module, task: Task, device: torch.device) -> dict[str, float]:
    context = EvaluationContext(task, torch.Generator().manual_seed(0), device, 1.0, model, {})
    metrics = evaluator.metrics_for(task)
    found = require_metrics(evaluator, evaluator.evaluate(model, context), metrics)
    return {name: value for name, value in found.items() if metrics[name].is_cost}
