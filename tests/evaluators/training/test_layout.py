from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from evaluators.training.layout import channels_last
from spaces.networks import resnet20

NARROW = """
import torch
from torch import nn
from evaluators.training.layout import channels_last

torch.set_num_threads(1)
for _ in range(8):
    model = nn.Sequential(nn.Conv2d(3, 7, 1), nn.Conv2d(7, 14, 1, stride=2, bias=False))
    with channels_last(model, True):
        inputs = torch.randn(64, 3, 28, 28).to(memory_format=torch.channels_last)
        model(inputs).square().mean().backward()
    spoil = [torch.randn(1000 + 17 * size) for size in range(50)]
"""


def test_narrow_strided_shortcuts_do_not_corrupt_memory():
    ended = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_inside_the_network_answers_the_same_and_outside_it_is_as_before():
    model = resnet20(in_channels=1).eval()
    inputs = torch.randn(2, 1, 28, 28)
    strides = [module.stride for module in model.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        before = model(inputs)
        with channels_last(model, True):
            first = next(module for module in model.modules() if isinstance(module, nn.Conv2d) and module.in_channels > 1)
            assert first.weight.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(model(inputs.to(memory_format=torch.channels_last)), before, atol=1e-5, rtol=1e-5)
        assert torch.equal(model(inputs), before)
    assert [module.stride for module in model.modules() if isinstance(module, nn.Conv2d)] == strides
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_unwanted_it_does_nothing():
    model = nn.Sequential(nn.Conv2d(3, 8, 1, stride=2))
    with channels_last(model, False):
        assert model[0].stride == (2, 2)
        assert not model[0]._forward_pre_hooks
