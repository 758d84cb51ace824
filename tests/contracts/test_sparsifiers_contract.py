"""Every registered sparsifier keeps the interface that the shipped kit checks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spaces.registry import lookup
from spaces.sparsifiers import SPARSIFIERS
from spaces.testing import check_sparsifier


@pytest.mark.parametrize("name", SPARSIFIERS)
def test_it_passes_the_kit(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        inputs, targets = torch.randn(8, 1, 4, 4), torch.randint(0, 3, (8,))
    check_sparsifier(lookup(SPARSIFIERS, name, "sparsifier"), nn.Sequential(*layers), inputs, targets)
