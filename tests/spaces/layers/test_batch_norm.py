from __future__ import annotations

import pytest
import torch
from torch import nn

from spaces.layers.batch_norm import batch_statistics, keep_statistics


@pytest.mark.parametrize("value", [1.0, float("inf")])
def test_statistics_of_a_batch_leave_a_network_as_it_was(value: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs = torch.randn(6, 3, 4, 4) * value
    with torch.inference_mode():
        plain = model(inputs)
        with batch_statistics(model):
            found = model(inputs)
        again = model(inputs)
    if value == 1.0:
        torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(4), rtol=0.0, atol=1e-5)
        assert not torch.allclose(plain, found)
    assert torch.equal(torch.nan_to_num(plain), torch.nan_to_num(again))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_statistics_that_are_kept_are_not_those_of_a_batch() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    keep_statistics(model)
    inputs = torch.randn(6, 3, 4, 4)
    with torch.inference_mode(), batch_statistics(model):
        found = model(inputs)
    with torch.inference_mode():
        assert torch.equal(found, model(inputs))
