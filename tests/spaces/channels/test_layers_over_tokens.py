"""Layers that mix tokens of each channel alike let the channels pass; a kernel along the channels freezes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluators.cost import count_costs
from spaces.channel_mask import ChannelMask
from spaces.channels.check import find_checked_groups

TOKENS = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))


class Mixer(nn.Module):
    """A block of MLP-Mixer."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.tokens = nn.Sequential(nn.Linear(tokens, 10), nn.GELU(), nn.Linear(10, tokens))
        self.channels = nn.Sequential(nn.Linear(channels, 20), nn.GELU(), nn.Linear(20, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Table(nn.Module):
    """A table over tokens, by a product."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(tokens, tokens))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.einsum("bnc,nm->bmc", x, self.table)


class Pointwise(nn.Module):
    """A convolution over tokens as channels, of a single place."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(tokens, tokens, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x)


@pytest.mark.parametrize("block", [Mixer, Table, Pointwise])
def test_channels_pass_through_layers_over_tokens(block: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 12), block(6, 12), nn.Linear(12, 4)).eval()
    space = ChannelMask(network, TOKENS)
    sizes = {group.name: group.size for group in space.groups.groups}
    assert sizes == {"0": 12} | ({"1.tokens.0": 10, "1.channels.0": 20} if block is Mixer else {})
    assert all(group.name in ("2", "1.tokens.2", "1.mix") for group in space.groups.frozen)
    rng = np.random.default_rng(0)
    for _ in range(2):
        candidate = space.sample(rng)
        assert space.check(network, candidate) < 1e-9
        counted = count_costs(space.realize(network, candidate), TOKENS)
        predicted = space.costs(candidate)
        assert {name: predicted[name] for name in counted} == counted


class Gated(nn.Module):
    """Hidden tokens that are normalized, shortened, joined with a parameter or with a number on the way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.up, self.down, self.norm = nn.Linear(6, 10), nn.Linear(9 if way == "slice" else 10, 6), nn.LayerNorm(10)
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, 10))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x.transpose(1, 2))
        y = {"slice": lambda: y[..., 1:], "norm": lambda: self.norm(y), "gain": lambda: y * self.gain, "sum": lambda: y + 1.0}[
            self.way
        ]()
        return x + self.down(y).transpose(1, 2)


@pytest.mark.parametrize("way", ["slice", "norm", "gain", "sum"])
def test_hidden_tokens_are_followed_through_elementwise_code_alone(way: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 12), Gated(way), nn.Linear(12, 4)).eval()
    groups = find_checked_groups(network, TOKENS)
    opened = {group.name for group in groups.groups}
    assert opened == ({"0", "1.up"} if way == "sum" else {"0"}), groups.frozen
    if way != "sum":
        reason = next(group.reason for group in groups.frozen if group.name == "1.up")
        assert "whose number is fixed, at `" in reason


class ChannelKernel(nn.Module):
    """Efficient channel attention: a convolution along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean(1, keepdim=True)).sigmoid()


def test_a_kernel_along_the_channels_freezes_them_and_says_so() -> None:
    groups = find_checked_groups(nn.Sequential(nn.Linear(8, 12), ChannelKernel(), nn.Linear(12, 4)).eval(), TOKENS)
    assert not groups.groups
    reason = next(one.reason for one in groups.frozen if one.name == "0")
    assert reason.startswith("1.conv: its kernel runs along the channels")
