"""Every registered layer kind keeps the interface that the shipped kit checks, between layers whose channels are open."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spaces.channels.kinds import LAYER_KINDS
from spaces.testing import check_layer_kind

IMAGES = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(0))

IDS = torch.tensor([[3, 0, 8, 3, 1]])


def around(*layers: nn.Module) -> nn.Module:
    """Return a network in which ``layers`` read and write 8 channels of images that are open."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ends = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        return nn.Sequential(
            ends[0], *layers, nn.ReLU(), ends[1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        ).eval()


class Recurring(nn.Module):
    """A recurrent layer of which the next layer reads every step's output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


NETWORKS = {
    "conv": (around(nn.Conv2d(8, 8, 3, padding=1, groups=2)), IMAGES),
    "conv_transpose": (around(nn.ConvTranspose2d(8, 8, 2, stride=2)), IMAGES),
    "linear": (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), TOKENS),
    "norm": (around(nn.BatchNorm2d(8)), IMAGES),
    "layer_norm": (nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), TOKENS),
    "recurrent": (nn.Sequential(nn.Linear(6, 8), Recurring(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), TOKENS),
    "group_norm": (around(nn.GroupNorm(4, 8)), IMAGES),
    "embedding": (nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), IDS),
}
FROZEN = {"attention": "channels inside an attention are not open yet"}


@pytest.mark.parametrize("name", [name for name in LAYER_KINDS if name not in FROZEN])
def test_it_passes_the_kit(name: str) -> None:
    check_layer_kind(name, *NETWORKS[name])


def test_the_kit_sees_a_kind_that_is_not_there() -> None:
    with pytest.raises(AssertionError, match="no layer of this kind"):
        check_layer_kind("conv_transpose", *NETWORKS["conv"])
