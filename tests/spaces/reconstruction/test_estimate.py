from __future__ import annotations

import pytest
import torch

from spaces.execution.forward import call
from spaces.reconstruction import dense as outputs
from spaces.reconstruction import estimate as estimates
from spaces.reconstruction.settings import ReconstructionSettings
from tests.spaces.zoo import example, network


def test_memory_is_bounded_and_passes_grow_with_the_depth_where_samples_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sample = network("residual").eval(), example("residual")[:1]
    before = torch.get_rng_state()
    few, many = (estimates.estimate(model, sample, call, ReconstructionSettings(images=images), 10_000) for images in (16, 512))
    assert few.passes == many.passes == 3.0
    assert 0.0 < few.seconds < many.seconds
    assert few.bytes < many.bytes < 2**30
    monkeypatch.setattr(outputs, "AT_ONCE", 20 * outputs.activation_bytes(model, sample, call))
    monkeypatch.setattr(estimates, "IN_PARTS", 1)
    parts = estimates.estimate(model, sample, call, ReconstructionSettings(images=512), 10_000)
    assert parts.passes > many.passes
    assert parts.fitting == 20
    assert estimates.estimate(model, sample, call, ReconstructionSettings(images=20), 10_000).passes == few.passes
    assert parts.bytes < many.bytes
    assert torch.equal(before, torch.get_rng_state())
