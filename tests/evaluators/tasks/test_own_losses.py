"""Losses, scores and distances of the tasks beside classification, against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.task import Task
from evaluators.tasks.labels import Labels
from evaluators.tasks.regression import Regression
from evaluators.tasks.segmentation import Segmentation
from tests.evaluators.tasks.shapes.test_shapes import task

LOGITS, TEACHER = (torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))


def divergence(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_p, log_q = ((one / temperature).log_softmax(1) for one in (outputs, teacher))
    return (log_q.exp() * (log_q - log_p)).sum(1).mean() * temperature**2


def test_answers_of_many_places_are_as_far_apart_as_one_of_them_on_average() -> None:
    # The loss is a mean over places: a distance that were a sum of them would drown it.
    given = task("shape_masks")
    assert isinstance(given, Segmentation)
    torch.testing.assert_close(given.distillation_loss(LOGITS, TEACHER, 2.0), divergence(LOGITS, TEACHER, 2.0))
    one = LOGITS[:, :, :1, :1], TEACHER[:, :, :1, :1]
    repeated = [part.expand(-1, -1, 5, 5) for part in one]
    torch.testing.assert_close(given.distillation_loss(*repeated, 3.0), given.distillation_loss(*one, 3.0))
    torch.testing.assert_close(given.distillation_loss(*(part[..., 0, 0] for part in one), 3.0), divergence(*one, 3.0))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 2, 2)])
def test_one_number_a_sample_is_no_distribution(shape: tuple[int, ...]) -> None:
    given = task("shape_pairs")
    outputs, teacher = torch.zeros(shape), torch.full(shape, 2.0)
    assert Task.distillation_loss(given, outputs, teacher, 5.0) == 4.0


def test_pixels_that_do_not_count_are_in_no_loss_and_no_score() -> None:
    given = task("shape_masks")
    targets = torch.full((2, 2, 2), -100)
    targets[0, 0] = torch.tensor([0, 1])
    answers = F.one_hot(torch.tensor([[[0, 2], [0, 1]]] * 2), 3).movedim(-1, 1).float()
    torch.testing.assert_close(given.score(answers, targets), {"top1": torch.tensor([0.5, 0.0])})
    expected = F.cross_entropy(answers[:1, :, 0], targets[:1, 0])
    torch.testing.assert_close(given.loss(answers, targets), expected)


def test_labels_do_not_exclude_each_other() -> None:
    given = task("shape_labels")
    assert isinstance(given, Labels)
    outputs, teacher = LOGITS[..., 0, 0], TEACHER[..., 0, 0]
    targets = (teacher > 0).long()
    plain = nn.BCEWithLogitsLoss()
    torch.testing.assert_close(given.loss(outputs, targets), plain(outputs, targets.float()))
    smoothed = torch.where(targets == 1, 0.9, 0.1)
    torch.testing.assert_close(given.loss(outputs, targets, 0.2), plain(outputs, smoothed))
    two = [torch.stack([one, torch.zeros_like(one)], 1) for one in (outputs, teacher)]
    torch.testing.assert_close(given.distillation_loss(outputs, teacher, 2.0), divergence(*two, 2.0))


def test_numbers_are_compared_by_their_squared_difference() -> None:
    given = task("shape_sizes")
    assert isinstance(given, Regression)
    for distance in (given.loss(LOGITS, TEACHER, 0.3), given.distillation_loss(LOGITS, TEACHER, 7.0)):
        torch.testing.assert_close(distance, (LOGITS - TEACHER).square().mean())
    assert given.score_metrics["loss"].unit == "mean squared error"
