"""Metrics that accumulate: the adapter to those of torchmetrics, merged states, and metrics that can't be used."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluators.meters import ImportedMeter, MeterError, MeterSettings, Perplexity

OUTPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(1))
BOXES = [
    {
        "boxes": torch.tensor([[0.0, 0.0, 10.0 + place, 10.0]]),
        "scores": torch.tensor([0.9 - 0.1 * place]),
        "labels": torch.tensor([place % 2]),
    }
    for place in range(8)
]
TRUTH = [{"boxes": torch.tensor([[0.0, 0.0, 12.0, 10.0]]), "labels": torch.tensor([0])} for _ in range(8)]

SHIPPED: dict[str, tuple[MeterSettings, Any, Any]] = {
    "F1": (
        MeterSettings("torchmetrics.classification.MulticlassF1Score", {"num_classes": 3, "average": "macro"}),
        OUTPUTS,
        TARGETS,
    ),
    "mIoU": (
        MeterSettings("torchmetrics.classification.MulticlassJaccardIndex", {"num_classes": 3}),
        OUTPUTS.reshape(10, 4, 3).movedim(2, 1),
        TARGETS.reshape(10, 4),
    ),
    "mAP": (MeterSettings("torchmetrics.detection.MeanAveragePrecision", key="map"), BOXES, TRUTH),
    "R2": (MeterSettings("torchmetrics.regression.R2Score"), OUTPUTS[:, 0], TARGETS.float()),
}


TEXT = torch.randn(9, 4, 6, generator=torch.Generator().manual_seed(2)), torch.arange(36).reshape(9, 4) % 6


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("kind", [*SHIPPED, "perplexity"])
@pytest.mark.filterwarnings("ignore")
def test_parts_merge_into_the_metric_of_one_pass(kind: str, workers: int) -> None:
    pytest.importorskip("torchmetrics")
    outputs, targets = TEXT if kind == "perplexity" else SHIPPED[kind][1:]
    whole, *parts = (Perplexity() if kind == "perplexity" else ImportedMeter(SHIPPED[kind][0]) for _ in range(workers + 1))
    whole.update(outputs, targets)
    for start in range(0, len(outputs), 2):
        parts[start // 2 % workers].update(outputs[start : start + 2], targets[start : start + 2])
    # As they are sent from worker to driver; nothing but importable classes, of which a process has one each.
    parts = [pickle.loads(pickle.dumps(part)) for part in parts]
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].compute() == pytest.approx(whole.compute(), abs=1e-6)
    assert isinstance(whole.compute(), float)


class Sums:
    """The interface of a metric."""

    def __init__(self, values: int = 1) -> None:
        self.values, self.total = values, 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.total += float((outputs - targets).sum())

    def merge_state(self, other: Any) -> None:
        self.total += other.total

    def compute(self) -> Any:
        return torch.full((self.values,), self.total) if self.values else {"sum": self.total}

    def to(self, device: torch.device) -> Any:
        return self


def meter(**options: Any) -> ImportedMeter:
    return ImportedMeter(MeterSettings("tests.evaluators.test_meters.Sums", **options))


def test_a_class_of_ones_own_with_the_interface_is_a_metric() -> None:
    one, other = meter(arguments={"values": 0}, key="sum"), meter()
    one.update(torch.ones(3), torch.zeros(3))
    other.update(torch.ones(2), torch.zeros(2))
    one.merge(other)
    assert one.compute() == 5.0
    assert one.settings.label == "sums_sum"
    assert MeterSettings("torchmetrics.classification.MulticlassF1Score").label == "multiclass_f1_score"


def test_metrics_that_can_not_be_used_say_why() -> None:
    with pytest.raises(MeterError, match=r"called with \{'nothing': 1\} failed"):
        meter(arguments={"nothing": 1})
    with pytest.raises(MeterError, match="expected a metric as torchmetrics has them, with compute"):
        ImportedMeter(MeterSettings("collections.OrderedDict"))
    with pytest.raises(MeterError, match=r"can't take outputs of shape \(2,\) and targets of shape \(3,\)"):
        meter().update(torch.ones(2), torch.zeros(3))
    with pytest.raises(MeterError, match="gives 3 values: expected one number"):
        meter(arguments={"values": 3}).compute()
    with pytest.raises(MeterError, match="gives sum: expected key"):
        meter(arguments={"values": 0}).compute()
    with pytest.raises(MeterError, match="expected 'mean' among its values, got sum"):
        meter(arguments={"values": 0}, key="mean").compute()
    with pytest.raises(MeterError, match=r"can't be computed of the samples it was given: .*fidelities"):
        meter(arguments={"values": -1}).compute()
    with pytest.raises(ValueError, match="direction: expected"):
        MeterSettings("x.Y", direction="up")  # type: ignore[arg-type]
