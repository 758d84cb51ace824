"""Traces in two parts, against the whole Hessian and against probes of all of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluators.sensitivity import split_trace
from evaluators.sensitivity.hessian_trace import TraceSettings, hessian_traces
from evaluators.sensitivity.split_trace import LEAST_DRAWS, split_traces
from spaces.errors import SecateursError
from tests.evaluators.sensitivity.small_networks import (
    Attention,
    Saddle,
    batches_of,
    call,
    exact_traces,
    mlp,
    seeded,
    weights_of,
)


def traces(model, batches, weights=None, loss=F.cross_entropy, seed=0, **settings):
    chosen = TraceSettings(**{"tolerance": 0.1, "most_rounds": 100, **settings})
    weights = weights_of(model) if weights is None else weights
    return split_traces(model, weights, batches, loss, call, torch.Generator().manual_seed(seed), chosen)


@pytest.mark.parametrize("network", ["mlp", pytest.param("attention", marks=pytest.mark.slow)])
def test_equals_the_trace_of_the_whole_hessian(network):
    model = seeded(mlp if network == "mlp" else Attention)
    batches = batches_of(4 if network == "mlp" else 12, sizes=(2, 2, 2, 1))
    exact = exact_traces(model, weights_of(model), batches)
    for name, trace in traces(model, batches, most_rounds=300).by_name.items():
        assert trace.value == pytest.approx(exact[name], abs=4 * trace.standard_error + 1e-6), name
        assert trace.standard_error < 0.4 * max(map(abs, exact.values()))


def test_a_network_of_relus_needs_no_more_than_a_look_at_the_rest():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)))
    batches = batches_of(4, sizes=(3, 3))
    exact = exact_traces(model, weights_of(model), batches)
    found = traces(model, batches, tolerance=0.001)
    assert found.converged
    assert found.products == LEAST_DRAWS * 3
    for name, trace in found.by_name.items():
        assert trace.value == pytest.approx(exact[name], rel=1e-4), name


def test_negative_traces_keep_their_sign():
    model = Saddle()
    found = traces(model, [(torch.zeros(3, 1), torch.zeros(3))], dict(model.named_parameters()), lambda out, _: out.mean())
    assert found.by_name["up"].value == pytest.approx(10.0)
    assert found.by_name["down"].value == pytest.approx(-12.0)


def test_many_outputs_are_left_to_probes_of_the_whole(monkeypatch):
    model, batches = seeded(mlp), batches_of(4)
    monkeypatch.setattr(split_trace, "MOST_OUTPUTS", 2)
    settings = TraceSettings(tolerance=0.1, least_rounds=2, most_rounds=2)
    generator = torch.Generator().manual_seed(0)
    expected = hessian_traces(model, weights_of(model), batches, F.cross_entropy, call, generator, settings)
    assert traces(model, batches, least_rounds=2, most_rounds=2) == expected


def test_nothing_is_left_behind_and_the_seed_decides():
    model, batches = seeded(mlp).train(), batches_of(4)
    before = torch.get_rng_state()
    first, again, other = (traces(model, batches, seed=seed, most_rounds=8).by_name for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_what_does_not_reach_the_loss_is_named():
    model = seeded(mlp)
    with pytest.raises(SecateursError, match="no gradient by every one of 4 weights"):
        traces(model, batches_of(4), {**weights_of(model), "elsewhere": nn.Parameter(torch.ones(2, 2))})
