"""Checks of model, data, spaces and targets before a run starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from search.config.registries import SPARSIFIER, STAGE
from search.executors.remote_timer import evaluators_of
from search.output.numbers import format_count, format_percent
from search.pipeline.inspection import build_space, spaces_of
from search.stages.search.context import require_informative_objective
from spaces.errors import SecateursError, UnsupportedModelError
from spaces.pruning_schedule import PruningSchedule
from spaces.registry import suggestion

if TYPE_CHECKING:
    from torch import nn

    from evaluators.base import Evaluator
    from evaluators.task import Task
    from search.config.loading import Config
    from spaces.base import SearchSpace

_SCORED = 100
"""Samples that the score of the given network is measured on: enough to notice images prepared otherwise than in training."""


@contextmanager
def placed(step: str) -> Iterator[None]:
    """Prefix the message of a :class:`SecateursError` raised inside with the name of the stage."""
    try:
        yield
    except SecateursError as error:
        if not str(error).startswith(step):
            error.args = (f"{step}: {error}",)
        raise


def preflight(config: Config) -> Iterator[str]:
    """Build the model, the data and the spaces, run one forward pass, and yield a line per check that passed.

    Raises:
        SecateursError: The model or its data cannot be had, its outputs do not fit the data, nothing is open to a search,
            or no candidate can meet a target.
    """
    from evaluators.cost import count_costs
    from evaluators.tasks.measure import measure

    if config.storage is not None:
        from search.study.database import probe

        yield f"storage: {probe(config.storage)}"
    _check_device(config.execution.device)
    task = config.build_task()
    model = task.reference_model().eval()
    yield f"model: {type(model).__name__}, {format_count(sum(p.numel() for p in model.parameters()))} parameters"
    sizes = [f"{task.size(split)} {split}" for split in ("train", "search", "test")]
    yield f"data: {', '.join(sizes)}"
    _check_batches(config, task)
    yield f"forward pass: outputs of shape {_forward(task, model)}"
    if STAGE.find(config.stages[0].name).compresses:
        count_of = min(_SCORED, task.size("search"))
        found = measure(model, task, "search", limit=count_of)[task.score_name]
        yield f"score: {task.score_name} {found:.4f} as it is, on {count_of} samples of the search split"
    smaller = False
    for index, stage in enumerate(config.stages):
        name = f"{index}-{stage.name}"
        if hasattr(stage.settings, "sparsifier"):
            sparsifier = SPARSIFIER.build(stage.settings.sparsifier)
            # What a stage leaves that removes something is not known before it has run.
            smaller, remark = smaller or sparsifier.removes, sparsifier.remark
            yield from [f"{name}: note that {remark}"] if remark else []
        if not hasattr(stage.settings, "space"):
            continue
        with placed(name):
            space = build_space(spaces_of(config)[name], model, task)
            if not space.domains:
                raise UnsupportedModelError("nothing in the model is open to the search; `inspect` says why")
            evaluators = evaluators_of(stage.settings.evaluate, config.execution)
            _check_scores(stage.settings, evaluators, task)
            _check_latency(evaluators, space)
            require_informative_objective(space, list(stage.settings.objectives))
        yield f"{name}: {len(space.domains)} decisions open"
        if not smaller:
            yield from _targets(name, stage.settings.target, space, count_costs(model, task.example_inputs(), task.forward))
        smaller = True


def _check_scores(settings: Any, evaluators: Sequence[Evaluator], task: Task) -> None:
    known = [
        metric
        for evaluator in evaluators
        for metric in (evaluator.metrics_for(task) if hasattr(evaluator, "metrics_for") else evaluator.metrics)
    ]
    for metric in (*settings.objectives, *settings.target):
        if metric not in known:
            raise SecateursError(f"no evaluator measures {metric!r} for this task; {suggestion(metric, known)}")


def _check_latency(evaluators: Sequence[Evaluator], space: SearchSpace) -> None:
    from evaluators.cost import NO_TABLE, Cost
    from evaluators.latency.backends import require
    from evaluators.latency.latency import Latency

    for evaluator in evaluators:
        if isinstance(evaluator, Latency) and evaluator.settings.resource is None:
            require(evaluator.settings.conditions)
        elif isinstance(evaluator, Cost) and evaluator.settings.latency:
            candidate = space.cheapest()
            if candidate is None or "latency_ms" not in space.costs(candidate):
                raise SecateursError(NO_TABLE)


def _check_device(setting: str) -> None:
    import torch

    device = torch.device("cpu" if setting == "auto" else setting)
    there = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= there:
        raise SecateursError(
            f"execution.device: {setting} is not there: PyTorch finds {there} GPUs on this machine; expected auto or cpu"
        )


def _check_batches(config: Config, task: Task) -> None:
    for index, stage in enumerate(config.stages):
        own = stage.settings
        trainings = {"": own, "training.": getattr(own, "training", None)}
        trainings["finalists.training."] = getattr(getattr(own, "finalists", None), "training", None)
        for below, training in trainings.items():
            batch = getattr(training, "batch_size", None)
            if batch is not None and batch > task.size("train"):
                place = f"stages.{index}.{stage.name}.{below}batch_size"
                raise SecateursError(f"{place}: expected at most the {task.size('train')} training samples, got {batch}")


def _forward(task: Task, model: nn.Module) -> tuple[int, ...]:
    import torch

    inputs, targets = next(iter(task.batches("search", 2, limit=2)))
    shape = tuple(inputs.shape)
    try:
        with torch.no_grad():
            outputs = task.forward(model, inputs)
            loss = task.loss(outputs, targets)
            task.score(outputs, targets)
    except SecateursError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"the model fails on a batch of its data, inputs of shape {shape}: {type(error).__name__}: {error}. Check the "
            "model's arguments (input channels, classes, image size) against the data"
        ) from error
    if not bool(torch.isfinite(loss)):
        raise UnsupportedModelError(f"the loss of the model on a batch of its data is {float(loss)}; expected a finite number")
    return tuple(outputs.shape)


def _targets(name: str, targets: Any, space: SearchSpace, whole: Mapping[str, float]) -> Iterator[str]:
    smallest = space.cheapest()
    lowest = space.costs(smallest) if smallest is not None else {}
    remedy = "raise the target, or open more of the model with max_ratio, include and exclude"
    if isinstance(space, PruningSchedule):
        remedy = "lower space.macs to the target"
    for metric, limit in targets.items():
        if metric not in whole or metric not in lowest:
            continue
        allowed = limit.absolute(whole[metric])
        if lowest[metric] >= whole[metric] > allowed:
            others = " or ".join(cost for cost in lowest if cost in whole and lowest[cost] < whole[cost])
            raise SecateursError(f"{name}.target.{metric}: nothing in this space lowers {metric}; set a target on {others}")
        if lowest[metric] > allowed:
            if not limit.relative and limit.value < 1:
                remedy = f'a share of the whole is written "<= {limit.value * 100:g}%"'
            raise SecateursError(
                f"{name}.target.{metric}: {limit} is {format_count(allowed)}, and the smallest network in this space has "
                f"{format_count(lowest[metric])} ({format_percent(lowest[metric] / whole[metric])} of the whole); {remedy}"
            )
        if whole[metric] <= allowed:
            raise SecateursError(
                f"{name}.target.{metric}: the network has {format_count(whole[metric])} already, within {limit}"
            )
        yield f"{name}: {metric} {limit} is within reach, down to {format_percent(lowest[metric] / whole[metric])}"
