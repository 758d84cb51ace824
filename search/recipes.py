"""Pipelines that ``compress()`` makes itself: the default ones, by the effort that a search may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evaluators.task import Task
from search.config.block import parse_score_limit
from spaces.errors import SecateursError

Effort = Literal["quick", "normal", "thorough"]
TRAINED, UNTRAINED = ("uniform", "global_magnitude"), ("uniform",)
"""Baselines beside a result that is retrained, and beside one that is not."""
_BATCH = 128
"""Samples of a batch of retraining, where there are as many."""


@dataclass(frozen=True)
class Extent:
    """Size of the default searches (ours).

    Attributes:
        population: Candidates of a generation of the genetic search.
        generations: Generations of the genetic search.
        evolution: Generations of the search without labels.
    """

    population: int
    generations: int
    evolution: int


EFFORTS: dict[Effort, Extent] = {
    "quick": Extent(population=8, generations=4, evolution=15),
    "normal": Extent(population=16, generations=10, evolution=60),
    "thorough": Extent(population=32, generations=20, evolution=200),
}


def extent_of(effort: str) -> Extent:
    """Return the size of the searches of an effort.

    Raises:
        SecateursError: There is no such effort.
    """
    for name, extent in EFFORTS.items():
        if name == effort:
            return extent
    raise SecateursError(f'effort: expected "quick", "normal" or "thorough", got {effort!r}')


def one_shot(
    target: Mapping[str, str], effort: Effort, formats: Sequence[str], baselines: bool | Sequence[str]
) -> list[dict[str, Any]]:
    """Return the stages without labels and training: an evolution of levels, then the export."""
    searching = {
        "space": {"name": "channel_mask"},
        "algorithm": _algorithm(target, {"name": "evolution", "generations": extent_of(effort).evolution}),
        "evaluate": ["divergence", "cost"],
        "objectives": {"divergence": "minimize"},
        "target": dict(target),
        "baselines": _baselines(baselines, UNTRAINED),
    }
    return [{"search": searching}, *_export(formats)]


def retrained(
    task: Task,
    target: Mapping[str, str],
    epochs: int,
    lr: float,
    effort: Effort,
    formats: Sequence[str],
    baselines: bool | Sequence[str],
) -> list[dict[str, Any]]:
    """Return the stages with labels: a genetic search over channels, retraining with distillation, then the export."""
    extent = extent_of(effort)
    searching = {
        "space": {"name": "channel_mask"},
        "algorithm": _algorithm(
            target, {"name": "genetic", "population": extent.population, "generations": extent.generations}
        ),
        "evaluate": [{"accuracy": {"split": "search", "batch_norm_batches": 8}}, "cost"],
        "objectives": {task.score_name: "maximize" if task.score_sign > 0 else "minimize"},
        "target": dict(target),
        "baselines": _baselines(baselines, TRAINED),
    }
    # SGD without a limit ruins networks that were trained by another optimizer, transformers first of all.
    optimizer: dict[str, Any] = {"optimizer": {"name": "sgd", "lr": lr}, "clip_norm": 1.0}
    optimizer["batch_size"] = min(_BATCH, task.size("train"))
    retraining = {"epochs": epochs, **optimizer, "distillation": {"weight": 0.5, "temperature": 4.0}}
    return [{"search": searching}, {"retrain": retraining}, *_export(formats)]


def _algorithm(target: Mapping[str, str], usual: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the usual algorithm, or the one that finds the smallest network where a target is on a score."""
    try:
        on_score = any(parse_score_limit(limit) is not None for limit in target.values())
    except ValueError:
        return usual  # The configuration tells the mistake.
    return {"name": "integer_program"} if on_score else usual


def _baselines(wanted: bool | Sequence[str], usual: Sequence[str]) -> list[str]:
    if isinstance(wanted, bool):
        return list(usual) if wanted else []
    return [wanted] if isinstance(wanted, str) else list(wanted)


def _export(formats: Sequence[str]) -> list[dict[str, Any]]:
    named = [formats] if isinstance(formats, str) else list(formats)
    return [{"export": {"formats": named}}] if named else []
