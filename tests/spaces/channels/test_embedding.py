"""Columns of embeddings are channels, also where a head shares the table, and a weight that other code uses is a layer's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.importance.criterion import score

IDS = torch.arange(6).reshape(1, 6)


class Words(nn.Module):
    """Tokens and their places, a residual stream, and a head that has the table of tokens."""

    def __init__(self, tied: bool = True, max_norm: float | None = None) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8, max_norm=max_norm), nn.Embedding(6, 8)
        self.begin = nn.Parameter(torch.randn(1, 2, 8))
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        x = torch.cat([self.begin.expand(len(ids), -1, -1), x], 1)
        x = x + self.scale * self.down(self.up(self.norm(x)).relu())
        return self.head(x).mean(1)


@pytest.mark.parametrize("tied", [True, False])
def test_the_residual_stream_of_embeddings_is_a_group(tied: bool) -> None:
    torch.manual_seed(0)
    model = Words(tied).eval()
    batches = [torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(0))]
    space = ChannelMask(model, IDS, ChannelMaskSettings(compensate=True), batches=batches)
    assert {group.name: group.size for group in space.groups.groups} == {"tokens": 8, "up": 12}
    candidate = space.cheapest()
    assert space.check(model, candidate) < 1e-8
    small = space.realize(model, candidate)
    assert (small.tokens.embedding_dim, small.tokens.num_embeddings, small.begin.shape[-1]) == (1, 11, 1)
    assert (small.head.weight is small.tokens.weight) == tied
    assert small(IDS).shape == (1, 11)
    assert np.isfinite(score(model, space.groups, "l2")["tokens"]).all()


def test_a_table_that_is_normalized_in_place_stays() -> None:
    space = ChannelMask(Words(False, max_norm=1.0).eval(), IDS)
    assert [group.name for group in space.groups.groups] == ["up"]
    assert "max_norm" in next(group.reason for group in space.groups.frozen if group.name == "tokens")


class Borrowing(nn.Module):
    """Code that computes a layer with the weight of a module of its own, which never runs, and a bias of parts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 6, bias=False), nn.Linear(6, 8)
        self.first, self.second = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.linear(x, weight=self.inner.weight, bias=torch.cat((self.first, self.second))).relu())


def test_a_weight_used_outside_its_layer_is_cut_like_the_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), Borrowing(), nn.Linear(8, 3)).eval()
    space = ChannelMask(model, torch.randn(1, 5))
    assert sum(group.size for group in space.groups.groups) == 8 + 6 + 8
    candidate = space.cheapest()
    assert space.check(model, candidate) < 1e-8
    small = space.realize(model, candidate)
    assert (small[1].inner.in_features, small[1].inner.out_features, len(small[1].first)) == (1, 2, 1)
    macs = sum(layer.in_features * layer.out_features for layer in (small[0], small[1].inner, small[1].outer, small[2]))
    assert (space.network_macs, space.costs(candidate)["macs"]) == (5 * 8 + 8 * 6 + 6 * 8 + 8 * 3, macs)


class Placed(nn.Module):
    """Positions and tokens that are stored in several dimensions, moved and joined before they meet channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.out = nn.Conv2d(3, 8, 2, stride=2), nn.Linear(8, 3)
        self.grid, self.places = nn.Parameter(torch.randn(1, 8, 2, 2)), nn.Parameter(torch.randn(1, 18, 8))
        self.register_buffer("tokens", torch.randn(1, 2, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x) + F.interpolate(self.grid, size=(4, 4), mode="bilinear")
        x = x.flatten(2).transpose(1, 2) + self.places[:, :16]
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
        return self.out(x).mean(1)


def test_stored_tensors_follow_the_channels_that_they_meet() -> None:
    torch.manual_seed(0)
    model = Placed().eval()
    space = ChannelMask(model, torch.randn(1, 3, 8, 8))
    assert {group.name: group.size for group in space.groups.groups} == {"patches": 8}, space.groups.frozen
    small = space.realize(model, space.cheapest())
    assert space.check(model, space.cheapest()) < 1e-8
    assert [tuple(one.shape) for one in (small.grid, small.places, small.tokens)] == [(1, 1, 2, 2), (1, 18, 1), (1, 2, 1)]
