"""Bad batches of a task of one's own: refused before a run, with the entry, its type and shape, and what was expected."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.task import Batch, Split, Task
from search.config.loading import configure
from search.pipeline.preflight import preflight
from spaces.errors import SecateursError

STAGES = [
    {"train": {"epochs": 1, "batch_size": 2, "optimizer": {"name": "sgd", "lr": 0.1}}},
    {
        "search": {
            "space": "channel_mask",
            "algorithm": {"name": "random", "evaluations": 2},
            "evaluate": ["accuracy", "cost"],
            "objectives": {"top1": "maximize"},
            "target": {"macs": "<= 60%"},
        }
    },
]


class Sum(nn.Module):
    """Adds two entries, and answers with three logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, rows: Tensor, extra: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layers(rows if extra is None else rows + extra)
        return logits


class Own(Task):
    """Batches as they are given, of two samples each."""

    def __init__(self, batches: list[Any], later: list[Any] | None = None, loss: Any = None, score: Any = None) -> None:
        self._batches: dict[str, list[Any]] = {"search": batches, "train": batches if later is None else later, "test": batches}
        self._loss, self._score = loss or F.cross_entropy, score

    score_name = "top1"

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return Sum()

    def reference_model(self) -> nn.Module:
        return self.build()

    def size(self, split: Split) -> int:
        return 2 * len(self._batches[split])

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        yield from islice(self._batches[split], None if limit is None else max(1, limit // 2))

    def loss(self, outputs: Any, targets: Any, label_smoothing: float = 0.0) -> Tensor:
        found: Tensor = self._loss(outputs, targets)
        return found

    def score(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self._score(outputs) if self._score else {"top1": (outputs.argmax(1) == targets).float()}
        return found

    def example_inputs(self) -> Any:
        return {"rows": torch.ones(1, 4)}

    @property
    def fingerprint(self) -> str:
        return "own"


def batch(targets: Any = None, **changed: Any) -> Any:
    entries = {"rows": torch.ones(2, 4), "extra": torch.ones(2, 4)} | changed
    return entries, torch.tensor([0, 2]) if targets is None else targets


NAN = torch.full((2, 4), torch.nan)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a structure that changes": (
        {"batches": [batch(), batch(extra=None)]},
        r"second batch of the search split.*entry extra.*none",
    ),
    "and in training": (
        {"batches": [batch()] * 2, "later": [batch(), batch(extra=None)]},
        r"second batch of the train split.*extra",
    ),
    "None that becomes a tensor": (
        {"batches": [batch(extra=None)] * 2, "later": [batch()] * 2},
        r"loader 'train': expected entry extra of the inputs .* none; got float32 of 2 dimensions",
    ),
    "a type that targets don't have": (
        {"batches": [batch(torch.tensor([0.0, 2.0]))] * 2},
        r"inputs of entries rows \(2, 4\) float32.*Targets are of shape \(2,\)",
    ),
    "targets of another count": (
        {"batches": [batch(torch.tensor([0, 1, 2]))] * 2},
        r"entries rows .*Targets are of shape \(3,\)",
    ),
    "no dimension": ({"batches": [batch(rows=torch.tensor(1.0), extra=None)] * 2}, r"inputs of entries rows \(\) float32"),
    "no batch": ({"batches": [batch()] * 2, "later": []}, r"at most the 0 training samples|no batch of its train split"),
    "an entry that is not known": ({"batches": [batch(other=torch.ones(2))] * 2}, r"other \(2,\) float32.*unexpected keyword"),
    "no numbers": ({"batches": [batch(extra=NAN)] * 2}, r"is nan; .*inputs: entry extra of shape \(2, 4\) holds 8 values"),
    "three parts": (
        {"batches": [(torch.ones(2, 4), torch.ones(2), 1)] * 2},
        r"search split: expected a pair \(inputs, targets\), got a tuple of 3",
    ),
    "a loss of several numbers": (
        {"batches": [batch()] * 2, "loss": lambda o, t: o[:, 0]},
        r"loss of a batch: .*got shape \(2,\)",
    ),
    "a loss that is no tensor": ({"batches": [batch()] * 2, "loss": lambda o, t: 1.0}, r"loss of a batch: .*got 1.0"),
    "a score of another name": (
        {"batches": [batch()] * 2, "score": lambda o: {"f1": o[:, 0]}},
        r"expected top1 among the scores",
    ),
    "a score that is no tensor": (
        {"batches": [batch()] * 2, "score": lambda o: {"top1": 1.0}},
        r"score top1: expected a tensor",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_batches_are_refused_before_a_run(kind: str) -> None:
    given, message = BAD[kind]
    config = configure({"name": "x", "seed": 0, "stages": STAGES}, Own(**given))
    with pytest.raises(SecateursError, match=f"(?s){message}"):
        list(preflight(config))


def test_good_batches_pass() -> None:
    config = configure({"name": "x", "seed": 0, "stages": STAGES}, Own([batch()] * 2))
    assert any(line.startswith("forward pass") for line in preflight(config))
