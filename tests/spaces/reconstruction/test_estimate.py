from __future__ import annotations

import pytest
import torch
from torch import nn

from spaces.execution.forward import call
from spaces.reconstruction import dense as outputs
from spaces.reconstruction import estimate as estimates
from spaces.reconstruction.settings import ReconstructionSettings
from tests.spaces.zoo import example, network


def test_memory_is_bounded_and_passes_grow_with_the_depth_where_samples_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sample = network("residual").eval(), example("residual")[:1]
    before = torch.get_rng_state()
    few, many = (
        estimates.estimate(model, model, sample, call, ReconstructionSettings(images=images), 10_000) for images in (16, 512)
    )
    assert few.passes == many.passes == 3.0
    assert 0.0 < few.seconds < many.seconds
    assert few.bytes < many.bytes < 2**30
    monkeypatch.setattr(outputs, "AT_ONCE", 20 * outputs.activation_bytes(model, sample, call))
    monkeypatch.setattr(estimates, "IN_PARTS", 1)
    parts = estimates.estimate(model, model, sample, call, ReconstructionSettings(images=512), 10_000)
    assert parts.passes > many.passes
    assert parts.fitting == 20
    assert estimates.estimate(model, model, sample, call, ReconstructionSettings(images=20), 10_000).passes == few.passes
    assert parts.bytes < many.bytes
    assert torch.equal(before, torch.get_rng_state())


def test_a_smaller_network_takes_less_time_and_the_memory_of_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "_seconds", lambda run: 1.0)
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3)).eval()
    small = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    sample, settings = torch.randn(1, 3, 12, 12), ReconstructionSettings(images=64)
    whole = estimates.estimate(dense, dense, sample, call, settings, 64)
    cut = estimates.estimate(dense, small, sample, call, settings, 64)
    passes = 64 * whole.passes / estimates.BATCH
    # The inner layers' products are a quarter, the first one's, of 27 columns, nearly what they were.
    assert 0.25 * (whole.seconds - passes) < cut.seconds - passes < 0.35 * (whole.seconds - passes)
    assert (cut.bytes, cut.passes) == (whole.bytes, whole.passes)
