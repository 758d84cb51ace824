from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spaces.channels.groups import find_groups
from spaces.importance.criterion import Observations, make_criterion, observe, score
from spaces.importance.removal_order import Reader, removal_losses
from spaces.importance.second_order import unread_groups
from tests.spaces.zoo import example, network


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reader(outputs: int, columns: list[list[int]], others: int = 0, seed: int = 0) -> Reader:
    width = sum(map(len, columns)) + others
    inputs = draw(200, width, seed=seed) @ draw(width, width, seed=seed + 1)
    weight = draw(outputs, width, seed=seed + 2)
    moments = inputs.T @ inputs / 200 + 0.1 * torch.eye(width, dtype=torch.float64)
    return Reader(weight, moments, tuple(map(torch.tensor, columns)), 3.0 + seed)


def direct(found: list[Reader], gone: list[int]) -> float:
    """Return the loss when the weights of what is left are solved for anew."""
    total = 0.0
    for one in found:
        columns = torch.cat([one.columns[channel] for channel in gone])
        kept = torch.tensor([place for place in range(one.weight.shape[1]) if place not in columns.tolist()], dtype=torch.int64)
        solved = torch.zeros_like(one.weight)
        if len(kept):
            solved[:, kept] = torch.linalg.solve(one.moments[kept][:, kept], one.moments[kept] @ one.weight.T).T
        change = one.weight - solved
        total += float(((change @ one.moments) * change).sum()) / one.deviation
    return total


EVEN = [[0, 1], [2, 3], [4, 5], [6, 7]]
UNEVEN = [[4], [0, 1, 2], [3, 6], [5]]


@pytest.mark.parametrize("columns", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_losses_are_those_of_direct_solutions_and_each_step_is_the_cheapest(columns: list[list[int]]) -> None:
    found = [reader(3, columns, others=2), reader(5, EVEN, seed=7)]
    losses = removal_losses(found, 4)
    order = losses.argsort().tolist()
    for step in range(1, 5):
        gone = order[:step]
        assert float(losses[gone[-1]]) == pytest.approx(direct(found, gone), rel=1e-8)
        others = [channel for channel in range(4) if channel not in gone[:-1]]
        assert gone[-1] == min(others, key=lambda channel: direct(found, [*gone[:-1], channel]))


class Chain(nn.Module):
    """Channel 0 is read strongly and is twice channel 1; channel 2 is read weakly; channel 3 is never active."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
        self.depthwise, self.last = nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 3, 3)
        with torch.no_grad():
            self.first.weight[0] = 2.0 * self.first.weight[1]
            self.first.bias.zero_()
            self.first.weight[3] = 0.0
            self.depthwise.weight.fill_(1.0)
            self.depthwise.bias.zero_()
            self.last.weight[:, 2] *= 0.2

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.depthwise(self.norm(self.first(x))))


def shown(inputs: Tensor) -> Observations:
    return Observations([(inputs[:8], None), (inputs[8:], None)], lambda outputs, targets: outputs.sum(), lambda targets: None)


def test_what_others_can_stand_in_for_goes_first() -> None:
    torch.manual_seed(0)
    model, inputs = Chain().double().eval(), draw(16, 2, 6, 6)
    groups = find_groups(model, inputs[:1])
    assert [group.size for group in groups.groups] == [4]
    assert unread_groups(model, groups) == ()
    scores = next(iter(score(model, groups, "second_order", shown(inputs)).values()))
    order = scores.argsort().tolist()
    assert order[0] == 3
    assert scores[3] < 1e-3
    assert order[1] in (0, 1)
    assert scores[order[1]] < 0.01
    assert scores.max() == pytest.approx(1.0, abs=0.02)


def test_groups_without_a_reader_are_named_and_ordered_by_their_norms() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv1d(2, 6, 1)
            self.last = nn.Conv1d(6, 6, 1, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu()).mean(1)

    model, inputs = Ends().eval(), draw(16, 2, 5).float()
    groups = find_groups(model, inputs[:1])
    probe = make_criterion("second_order", model, groups)
    observe(probe, shown(inputs))
    assert probe.fallbacks == unread_groups(model, groups) == tuple(group.name for group in groups.groups)
    norms = score(model, groups, "l2")
    for name, scores in score(model, groups, "second_order", shown(inputs)).items():
        assert scores.argsort().tolist() == norms[name].argsort().tolist()
        assert scores.max() == pytest.approx(1.0)


def test_the_sums_go_on_from_their_state_and_are_the_same_again() -> None:
    model = network("residual")
    groups = find_groups(model, example("residual"))
    inputs = torch.randn(16, *example("residual").shape[1:], generator=torch.Generator().manual_seed(0))
    probe, other = (make_criterion("second_order", model, groups) for _ in range(2))
    observe(probe, shown(inputs))
    other.load_state_dict(probe.state_dict())
    assert torch.equal(probe.values(), other.values())
    again = score(model, groups, "second_order", shown(inputs))
    for group in groups.groups:
        part = probe.values()[group.offset : group.offset + group.size]
        assert torch.equal(torch.from_numpy(again[group.name]), part)
