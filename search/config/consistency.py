"""Checks of settings against each other: the order of stages, objectives, targets, budgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from search.config.block import Block
from search.config.document import Document, Fault, Path
from search.config.registries import EVALUATOR, SPACE, SPARSIFIER, STAGE
from spaces.registry import suggestion

LOSS = "nats"
"""Unit of the losses: smaller is better, and yet no cost."""


def check_consistency(document: Document, stages: Sequence[Block | None], own_scores: bool) -> list[Fault]:
    """Return the faults in the order of the stages, and in the objectives, targets and budgets of each.

    Args:
        document: The configuration.
        stages: Its stages in order, None for one with faults of its own.
        own_scores: True for a task of the user's own class, whose scores are not known before it is built.
    """
    faults = [*_order(document, stages), *_quantized(document, stages), *_teacher_before_reference(document, stages)]
    workers = _several_workers(document)
    for index, stage in enumerate(stages):
        if stage is not None and hasattr(stage.settings, "objectives"):
            faults.extend(_search(document, ("stages", index, stage.name), stage.settings, own_scores))
            if workers:
                faults.extend(_overlong_values(document, ("stages", index, stage.name), stage.settings))
    return faults


def _several_workers(document: Document) -> bool:
    execution = document.data.get("execution")
    return isinstance(execution, Mapping) and execution.get("executor") == "ray" and execution.get("workers") != 1


def _overlong_values(document: Document, path: Path, settings: Any) -> Iterable[Fault]:
    """Refuse to time candidates while others are evaluated on the same machine."""
    for index, block in enumerate(settings.evaluate):
        own = block.settings
        if getattr(own, "mode", None) == "measured" and hasattr(own, "resource") and own.resource is None:
            message = (
                "trials in other workers would disturb what is measured; expected mode: table, resource: NAME (a node on which "
                "no trials run), or execution.workers: 1"
            )
            yield document.fault((*path, "evaluate", index, block.name), message)


def stage_names(document: Document) -> list[str]:
    """Return the names of the stages as written, right or wrong."""
    entries = document.data.get("stages")
    names = []
    for entry in entries if isinstance(entries, list) else []:
        named = next(iter(entry), "") if isinstance(entry, Mapping) else entry
        names.append(str(named))
    return names


def _order(document: Document, stages: Sequence[Block | None]) -> Iterable[Fault]:
    names = stage_names(document)
    removing = [name == "search" or _removes(stage) for name, stage in zip(names, stages, strict=True)]
    for index, name in enumerate(names):
        path = ("stages", index)
        after = names[index + 1 :]
        if name == "retrain" and not any(removing[:index]):
            reason = "retrain trains the network that a search leaves, and no search comes before it"
            yield document.fault(path, f"{reason}; move it behind the search, or use `train`")
        elif name == "sparse_training" and not removing[index] and "search" not in after:
            reason = "sparse_training prepares a search, and none comes after it"
            yield document.fault(path, f"{reason}; move it before the search, or use `train`")
        elif name == "fuse" and any(other != "export" for other in after):
            last = next(other for other in after if other != "export")
            yield document.fault(path, f"fuse merges for inference only, and {last} comes after it; move it behind {last}")
        elif name == "export" and after:
            yield document.fault(path, f"export must be the last stage: {after[0]} would change what was exported")


def _quantized(document: Document, stages: Sequence[Block | None]) -> Iterable[Fault]:
    """Refuse to cut or to quantize what an earlier stage has quantized."""
    before: str | None = None
    for index, stage in enumerate(stages):
        place = next((key for key in ("space", "sparsifier") if hasattr(getattr(stage, "settings", None), key)), None)
        if stage is None or place is None:
            continue
        if before is not None:
            message = (
                f"{before} leaves a quantized network, from which no channels can be cut, and which can't be made sparse or "
                f"quantized again; move this stage before {before}"
            )
            yield document.fault(("stages", index, stage.name, place), message)
        elif place == "space" and getattr(SPACE.find(stage.settings.space.name), "quantizes", False):
            before = f"stages.{index}.{stage.name}"


def _teacher_before_reference(document: Document, stages: Sequence[Block | None]) -> Iterable[Fault]:
    """Refuse to learn from the reference before there is one."""
    for index, stage in enumerate(stages):
        if stage is None or STAGE.find(stage.name).compresses:
            return
        if getattr(stage.settings, "distillation", None) is not None:
            message = (
                "distillation learns from the network that enters the first compression, and no search or sparse_training "
                "comes before this stage; leave it out here"
            )
            yield document.fault(("stages", index, stage.name, "distillation"), message)


def _removes(stage: Block | None) -> bool:
    """Return True for a stage that removes channels by itself, as a sparse training may, and for None (a faulty stage)."""
    sparsifier = getattr(stage.settings, "sparsifier", None) if stage is not None else None
    return stage is None or (sparsifier is not None and SPARSIFIER.find(sparsifier.name).removes)


def _search(document: Document, path: Path, settings: Any, own_scores: bool) -> Iterable[Fault]:
    metrics: dict[str, Any] = {}
    closed = True
    for index, block in enumerate(settings.evaluate):
        place = (*path, "evaluate", index)
        if getattr(block.settings, "split", None) == "test":
            message = "the test split is read once, for the report, and never by a search; expected split: search"
            yield document.fault((*place, block.name, "split"), message)
        evaluator = EVALUATOR.build(block)
        closed = closed and not (own_scores and hasattr(evaluator, "metrics_for"))
        for name, metric in evaluator.metrics.items():
            if name in metrics:
                yield document.fault(place, f"{block.name} measures {name!r}, which an evaluator before it measures too")
            metrics[name] = metric
    for name, direction in settings.objectives.items():
        place = (*path, "objectives", name)
        if name not in metrics:
            if closed:
                yield document.fault(place, f"no evaluator measures {name!r}; {suggestion(name, metrics)}")
        elif metrics[name].direction != direction:
            message = f"{name} is better the other way; expected {metrics[name].direction}, got {direction}"
            yield document.fault(place, message)
    for name in settings.target:
        place = (*path, "target", name)
        costs = [other for other, metric in metrics.items() if metric.direction == "minimize"]
        if name not in metrics:
            yield document.fault(place, f"no evaluator measures {name!r}; {suggestion(name, costs)}")
        elif metrics[name].direction != "minimize":
            yield document.fault(place, f"{name} is no cost, and a target is an upper limit; {suggestion(name, costs)}")
    if "maximize" not in settings.objectives.values() and all(
        metrics[name].direction == "minimize" and metrics[name].unit != LOSS for name in settings.objectives if name in metrics
    ):
        message = "seeks small costs only, which the smallest network has; add what must stay high, such as top1: maximize"
        yield document.fault((*path, "objectives"), message)
    yield from _sizes(document, path, settings)


def _sizes(document: Document, path: Path, settings: Any) -> Iterable[Fault]:
    own, evaluations = settings.algorithm.settings, settings.budget.evaluations
    if evaluations is None or not hasattr(own, "least"):
        return
    first, named = own.least(settings.training is not None)
    if evaluations < first:
        message = f"expected at least {first}, {named}; got {evaluations}"
        yield document.fault((*path, "budget", "evaluations"), message)
