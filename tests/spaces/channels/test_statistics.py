"""Statistics over channels: the masked network takes them over the kept channels, wherever they stand in the code."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channel_mask import ChannelMask
from spaces.channels.groups import find_groups
from spaces.sparsifiers.zeroing import lossless_groups

TOKENS = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(1, 8, 5, 5, generator=torch.Generator().manual_seed(0))


class Norm(nn.Module):
    """A scaling factor and a shift for each of 12 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.linspace(0.5, 1.5, 12)), nn.Parameter(torch.linspace(-1.0, 1.0, 12))
        self.shape = (12,)


class MeanSquare(Norm):
    """The RMS norm of T5, Llama and their like."""

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x * torch.rsqrt(x.to(torch.float32).pow(2).mean(-1, keepdim=True) + 1e-6))


class Above(Norm):
    """The RMS norm of Gemma, whose scaling factor is one more than the parameter."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + self.scale.float())


class RmsNorm(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.shape, self.scale)


class LayerNorm(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, normalized_shape=x.shape[-1:], weight=self.scale, bias=self.shift)


class Normalize(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.scale


class Variance(Norm):
    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, dim=2, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * self.scale + self.shift


class Softmax(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(-1) * self.scale


class Response(Norm):
    """The global response normalization of ConvNeXt V2."""

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x + self.shift + self.scale * (x * (norm / (norm.mean(-1, keepdim=True) + 1e-6)))


class Places(Norm):
    """The spatial attention of CBAM: mean and maximum over the channels weigh the places."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        told = self.weigh(torch.cat([x.mean(2, keepdim=True), x.max(2, keepdim=True)[0]], 2))
        return x * told.sum(2, keepdim=True).sigmoid()


class Group(Norm):
    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x.transpose(1, 2), 1, self.scale, self.shift).transpose(1, 2)


NORMS = [MeanSquare, Above, RmsNorm, LayerNorm, Normalize, Variance, Softmax, Response, Places, Group]


@pytest.mark.parametrize("norm", NORMS)
def test_statistics_are_taken_over_the_kept_channels(norm: type[Norm]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 12), norm(), nn.Linear(12, 4)).eval()
    space = ChannelMask(network, TOKENS)
    group = space.groups.groups[0]
    assert (group.name, group.size) == ("0", 12)
    candidate = space.sample(np.random.default_rng(0))
    assert 2 < candidate.mask("0").sum() < 12
    assert space.check(network, candidate) < 1e-9
    small = space.realize(network, candidate)
    masked = copy.deepcopy(space.prepare(network, candidate))
    torch.testing.assert_close(small(TOKENS), masked(TOKENS))
    assert not lossless_groups(network, space.groups, TOKENS, lambda model, inputs: model(inputs)).groups
    if norm is Normalize:
        return
    # Zeros in the place of the channels are another thing, but in a sum of squares.
    zeroed = copy.deepcopy(network)
    with torch.no_grad():
        gone = torch.from_numpy(~candidate.mask("0"))
        for tensor in (zeroed[0].weight, zeroed[0].bias, zeroed[1].scale, zeroed[1].shift):
            tensor[gone] = 0.0  # type: ignore[index, operator]
    assert not torch.allclose(zeroed(TOKENS), masked(TOKENS), rtol=1e-3)


class Average(nn.Module):
    """A mean whose divisor is the number of channels in the tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs().sum(-1, keepdim=True) / x.shape[-1])


def test_a_number_of_channels_in_the_code_freezes_them_once_the_slice_differs() -> None:
    network = nn.Sequential(nn.Linear(8, 12), Average(), nn.Linear(12, 4)).eval()
    assert find_groups(network, TOKENS).groups
    with pytest.raises(Exception, match="code before it depends on their number"):
        ChannelMask(network, TOKENS)


class Shared(nn.Module):
    """One norm without parameters for tensors of different channels."""

    def __init__(self, other: int) -> None:
        super().__init__()
        self.norm = Average() if not other else Plain()
        self.first, self.second, self.last = nn.Linear(8, 12), nn.Linear(12, other or 12), nn.Linear(other or 12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.second(self.norm(self.first(x)))))


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)


def test_a_norm_that_runs_twice_couples_channels_or_freezes_those_of_different_numbers() -> None:
    (group,) = find_groups(Shared(12).eval(), TOKENS).groups
    assert group.members == ("first", "second", "last")
    frozen = find_groups(Shared(10).eval(), TOKENS).frozen
    assert all("runs on tensors of several kinds" in one.reason for one in frozen if one.name != "last")
