"""Every registered space keeps the interface that the shipped kit checks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from evaluators.cost import count_costs
from spaces import SPACES
from spaces.importance.criterion import Observations
from spaces.networks import digits_cnn
from spaces.quantization.record import pack_weights
from spaces.registry import lookup
from spaces.testing import check_space

INPUTS = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
SEEN = Observations([(batch, torch.arange(16) % 10) for batch in BATCHES], nn.functional.cross_entropy, lambda targets: targets)


def count(network: nn.Module) -> Mapping[str, float]:
    """Return the costs of a network as it is stored."""
    return count_costs(pack_weights(network), INPUTS)


@pytest.mark.parametrize("name", SPACES)
def test_it_passes_the_kit(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = digits_cnn(width=4).eval()
    check_space(lookup(SPACES, name, "space"), model, INPUTS, count, batches=BATCHES, seen=SEEN, candidates=3)
