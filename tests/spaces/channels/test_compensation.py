from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from tests.spaces.zoo import ZOO, example, network


def batches(name: str, count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(16, *example(name).shape[1:], generator=generator) for _ in range(count)]


class Redundant(nn.Module):
    """The second half of the channels is a linear function of the first half, plus a constant."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 4, 3, bias=bias)
        self.head = nn.Linear(4, 5)
        with torch.no_grad():
            mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
            self.first.weight[4:] = torch.einsum("ij,jchw->ichw", mix, self.first.weight[:4])
            self.first.bias[4:] = torch.arange(4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


def test_what_the_kept_channels_tell_is_made_up_for() -> None:
    model, inputs = Redundant().eval(), torch.randn(4, 3, 8, 8)
    candidate = Candidate({"first": "11110000", "second": "1111"})
    compensated = ChannelMask(model, inputs[:1], batches=batches("plain", 8)).realize(model, candidate)
    plain = ChannelMask(model, inputs[:1]).realize(model, candidate)
    error = (compensated(inputs) - model(inputs)).abs().max()
    assert error < 0.05 * (plain(inputs) - model(inputs)).abs().max()


@pytest.mark.parametrize("name", list(ZOO))
def test_sliced_equals_masked_with_compensation(name: str) -> None:
    model = network(name)
    space = ChannelMask(model, example(name), batches=batches(name))
    rng = np.random.default_rng(0)
    for _ in range(2):
        candidate = space.sample(rng)
        assert space.check(model, candidate) < 1e-8
        prepared, small = space.prepare(model, candidate), space.realize(model, candidate)
        torch.testing.assert_close(prepared(example(name)), small(example(name)), atol=2e-5, rtol=1e-4)


def test_nothing_removed_changes_nothing() -> None:
    model = network("residual")
    space = ChannelMask(model, example("residual"), batches=batches("residual"))
    full = Candidate({name: "1" * domain.length for name, domain in space.domains.items()})
    small = space.realize(model, full)
    assert all(torch.equal(tensor, small.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_it_can_be_switched_off_and_leaves_the_model_alone() -> None:
    model = network("plain")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    off = ChannelMask(model, example("plain"), ChannelMaskSettings(compensate=False), batches=batches("plain"))
    on = ChannelMask(model, example("plain"), batches=batches("plain"))
    without = ChannelMask(model, example("plain"))
    candidate = off.sample(np.random.default_rng(1))
    weights = [space.realize(model, candidate).get_parameter("second.0.weight") for space in (off, on, without)]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_closed_form_is_the_least_squares_solution() -> None:
    """The folded weights must beat every small change of them, on the batches they were measured on."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).eval()
    data = torch.randn(512, 6, generator=torch.Generator().manual_seed(0))
    space = ChannelMask(model, data[:1], batches=[data])
    small = space.realize(model, Candidate({"0": "11101100"}))
    target = model(data).detach()

    @torch.no_grad()
    def loss(network: nn.Module) -> float:
        return float((network(data) - target).square().mean())

    best = loss(small)
    for seed in range(20):
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            step = 0.05 * torch.randn(small[2].weight.shape, generator=noise)
            small[2].weight += step
            assert loss(small) > best
            small[2].weight -= step
