"""Metrics that accumulate as sums: equal to torchmetrics' and to one pass, however the samples are spread over workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluators.meters import ImportedMeter, MeterError, MeterSettings
from evaluators.summed_meters import ExplainedVariance, LabelsF1, MeanIntersectionOverUnion, SummedMeter

GENERATOR = torch.Generator().manual_seed(0)
LOGITS, CLASSES = torch.randn(12, 4, 3, 3, generator=GENERATOR), torch.randint(0, 3, (12, 3, 3), generator=GENERATOR)
NUMBERS = torch.randn(12, 2, generator=GENERATOR)
TRUTH = 100.0 + NUMBERS + 0.5 * torch.randn(12, 2, generator=GENERATOR)
LABELS = torch.randint(0, 2, (12, 3), generator=GENERATOR)

KINDS: dict[str, tuple[Callable[[], SummedMeter], str, dict[str, Any], Tensor, Tensor]] = {
    "mIoU": (MeanIntersectionOverUnion, "classification.MulticlassJaccardIndex", {"num_classes": 4}, LOGITS, CLASSES),
    "R2": (ExplainedVariance, "regression.R2Score", {}, NUMBERS + 100.0, TRUTH),
    "F1": (LabelsF1, "classification.MultilabelF1Score", {"num_labels": 3}, LOGITS[:, :3, 0, 0], LABELS),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_metric_of_torchmetrics(name: str) -> None:
    pytest.importorskip("torchmetrics")
    kind, path, arguments, outputs, targets = KINDS[name]
    ours, theirs = kind(), ImportedMeter(MeterSettings(f"torchmetrics.{path}", arguments))
    for meter in (ours, theirs):
        meter.update(outputs, targets)
    assert ours.compute() == pytest.approx(theirs.compute(), abs=1e-4)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("name", KINDS)
def test_parts_merge_into_the_metric_of_one_pass(name: str, workers: int) -> None:
    kind, _, _, outputs, targets = KINDS[name]
    whole, parts = kind(), [kind() for _ in range(workers + 1)]
    whole.update(outputs, targets)
    for start in range(0, 12, 3):
        parts[start // 3 % workers].update(outputs[start : start + 3], targets[start : start + 3])
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].compute() == pytest.approx(whole.compute(), abs=1e-12)
    with pytest.raises(MeterError, match="at least one batch"):
        parts[-1].compute()


def test_pixels_without_a_class_and_classes_that_none_has_are_left_out() -> None:
    meter = MeanIntersectionOverUnion()
    targets = torch.tensor([[0, 0, 1, -100]])
    meter.update(torch.eye(4)[torch.tensor([[0, 1, 1, 3]])].movedim(-1, 1), targets)
    assert meter.compute() == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_constant_targets_have_no_variance_to_explain() -> None:
    for error, expected in ((0.0, 1.0), (0.5, 0.0)):
        meter = ExplainedVariance()
        meter.update(torch.full((4, 1), 0.1 + error), torch.full((4, 1), 0.1))
        assert meter.compute() == expected


def test_a_label_that_none_has_and_none_was_given_is_left_out() -> None:
    meter = LabelsF1()
    meter.update(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), torch.tensor([[1, 0], [0, 0]]))
    assert meter.compute() == pytest.approx(2 / 3)
    none = LabelsF1()
    none.update(torch.tensor([[-1.0]]), torch.tensor([[0]]))
    assert none.compute() == 1.0
