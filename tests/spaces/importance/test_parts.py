"""Criteria that learn from batches give the same scores whether a batch comes whole, in parts, or in two processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spaces.channels.groups import ChannelGroups, find_groups
from spaces.importance.criterion import Gather, make_criterion

INPUTS = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
LABELS = torch.arange(12) % 3


class Shared(nn.Module):
    """A convolution that runs twice, and no layer that looks at other samples."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last, self.head = nn.Conv2d(4, 5, 3), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.twice(self.twice(self.stem(inputs).relu()).relu()).relu()
        outputs: Tensor = self.head(self.last(features).relu().mean((2, 3)))
        return outputs


def scores(name: str, parts: list[slice], gather: Gather | None = None) -> Tensor:
    """Return the scores after two batches, of which this process computes ``parts``; gradients are those of all of it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Shared().double()
    groups: ChannelGroups = find_groups(model, INPUTS[:1])
    criterion = make_criterion(name, model, groups)
    if gather is not None:
        criterion.join(gather)
    for turn in range(2):
        inputs, labels = INPUTS.roll(turn, 0), LABELS.roll(turn, 0)
        criterion.begin(labels)
        for part in parts:
            if part != slice(None):
                criterion.part(len(labels[part]))
            model(inputs[part])
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        criterion.end()
    return criterion.values()


@pytest.mark.parametrize("name", ["task_relevance", "relevance_loss", "second_order"])
def test_parts_and_processes_give_the_scores_of_the_whole_batch(name: str) -> None:
    whole = scores(name, [slice(None)])
    assert whole.std() > 0
    torch.testing.assert_close(scores(name, [slice(0, 4), slice(4, 8), slice(8, 12)]), whole, rtol=1e-9, atol=1e-12)
    # The rows of the second process are recorded; then the first one gets them behind its own.
    others: list[Tensor] = []
    scores(name, [slice(6, 12)], lambda rows: others.append(rows) or torch.cat([rows, rows]))  # type: ignore[func-returns-value]
    found = scores(name, [slice(0, 6)], lambda rows: torch.cat([rows, others.pop(0)]))
    assert not others
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-12)
