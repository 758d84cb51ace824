"""A space of plain numbers and a task of points, for tests of the machinery around them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.task import Batch, Split, Task
from search.study.problem import Objective, Problem, Target
from spaces.base import SearchSpace
from spaces.candidate import Candidate, Value
from spaces.domains import Domain, Mask


class MaskSpace(SearchSpace):
    """Two masks over nothing in particular; a candidate costs its kept channels."""

    @property
    def domains(self) -> Mapping[str, Domain]:
        return {"first": Mask(4), "second": Mask(6)}

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        return copy.deepcopy(model)

    def convert(self, prepared: nn.Module) -> nn.Module:
        return prepared

    def costs(self, candidate: Candidate) -> dict[str, float]:
        return {"macs": float(sum(str(mask).count("1") for mask in candidate.values.values()))}

    def describe(self, candidate: Candidate) -> dict[str, Value]:
        return {name: str(mask).count("1") / len(str(mask)) for name, mask in candidate.values.items()}

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        return {"kind": "none"}


class PointTask(Task):
    """Tells points left of zero from those right of it."""

    def __init__(self, samples: int = 32) -> None:
        self.points = torch.linspace(-1, 1, samples)[:, None]

    @property
    def score_name(self) -> str:
        return "top1"

    def build(self) -> nn.Module:
        torch_state = torch.random.get_rng_state()
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2))
        torch.random.set_rng_state(torch_state)
        return model

    def reference_model(self) -> nn.Module:
        return self.build()

    def size(self, split: Split) -> int:
        return len(self.points)

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None, limit: int | None = None
    ) -> Iterable[Batch]:
        points = self.points[:limit]
        yield points, (points[:, 0] > 0).long()

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"top1": (outputs.argmax(1) == targets).float()}

    def example_inputs(self) -> Tensor:
        return self.points[:1]

    @property
    def fingerprint(self) -> str:
        return "points"


def small_problem() -> Problem:
    """Return a problem over :class:`MaskSpace`: top1 up, macs down, at most 6 kept."""
    objectives = [Objective("top1", "maximize"), Objective("macs", "minimize")]
    return Problem(MaskSpace(), objectives, [Target("macs", 6.0)], {})
