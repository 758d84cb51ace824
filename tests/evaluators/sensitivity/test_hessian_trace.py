"""Traces of the Hessian's blocks, against the whole Hessian and against curvlinops."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluators.sensitivity.hessian_trace import TraceSettings, hessian_traces
from spaces.errors import SecateursError
from spaces.networks import resnet20
from tests.evaluators.sensitivity.small_networks import (
    Attention,
    Saddle,
    batches_of,
    call,
    curvlinops,
    exact_traces,
    mlp,
    seeded,
    weights_of,
)


def traces(model, batches, seed=0, weights=None, loss=F.cross_entropy, **settings):
    generator = torch.Generator().manual_seed(seed)
    weights = weights_of(model) if weights is None else weights
    return hessian_traces(model, weights, batches, loss, call, generator, TraceSettings(**settings) if settings else None)


@pytest.mark.parametrize("network", ["mlp", pytest.param("attention", marks=pytest.mark.slow)])
def test_equals_the_trace_of_the_whole_hessian(network):
    model = seeded(mlp if network == "mlp" else Attention)
    batches = batches_of(4 if network == "mlp" else 12, sizes=(2, 2, 2, 1))
    exact = exact_traces(model, weights_of(model), batches)
    found = traces(model, batches, tolerance=1e-9, least_rounds=200, most_rounds=200)
    assert list(found.by_name) == list(exact)
    largest = max(abs(value) for value in exact.values())
    for name, trace in found.by_name.items():
        assert trace.value == pytest.approx(exact[name], abs=4 * trace.standard_error), name
        assert trace.standard_error < 0.4 * largest
        assert trace.size == model.get_parameter(name).numel()


def test_the_standard_error_is_that_of_the_estimates():
    model, batches = seeded(mlp), batches_of(4)
    exact = exact_traces(model, weights_of(model), batches)
    runs = [traces(model, batches, seed, tolerance=1e-9, least_rounds=12, most_rounds=12).by_name for seed in range(24)]
    for name, value in exact.items():
        spread = statistics.stdev(run[name].value for run in runs)
        named = statistics.fmean(run[name].standard_error ** 2 for run in runs) ** 0.5
        assert statistics.fmean(run[name].value for run in runs) == pytest.approx(value, abs=4 * spread / len(runs) ** 0.5)
        assert spread == pytest.approx(named, rel=0.5)


# Forward-mode derivatives, which it uses, load a module of torch that torch itself warns of.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_batch_norm_in_evaluation_mode_equals_curvlinops():
    model = seeded(lambda: resnet20(in_channels=1, classes=3, width=2), gain=1.0).train()
    with torch.no_grad():
        model.classifier.weight.mul_(100)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(6, 1, 8, 8, generator=generator), torch.randint(0, 3, (6,), generator=generator)
    with torch.no_grad():
        model(inputs)
    batches = list(zip(inputs.split(2), targets.split(2), strict=True))
    weights = {name: weights_of(model)[name] for name in ("conv.weight", "stage2.0.shortcut.0.weight", "classifier.weight")}
    before = copy.deepcopy(model.state_dict())
    found = traces(model, batches, weights=weights, tolerance=0.1, most_rounds=24)
    assert max(trace.value / trace.standard_error for trace in found.by_name.values()) > 3
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    model.eval()
    for name, weight in weights.items():
        operator = curvlinops.HessianLinearOperator(model, nn.CrossEntropyLoss(), [weight], batches, check_deterministic=False)
        exact = float((operator @ torch.eye(weight.numel())).trace())
        trace = found.by_name[name]
        assert trace.value == pytest.approx(exact, abs=4 * trace.standard_error), name


def test_a_negative_trace_keeps_its_sign():
    model = Saddle()
    batches = [(torch.zeros(3, 1), torch.zeros(3))]
    found = traces(model, batches, weights=dict(model.named_parameters()), loss=lambda outputs, targets: outputs.mean())
    assert found.by_name["up"].value == pytest.approx(10.0)
    assert found.by_name["down"].value == pytest.approx(-12.0)
    assert found.converged


def test_signs_are_drawn_from_the_generator_alone():
    model, batches = seeded(mlp), batches_of(4)
    before = torch.get_rng_state()
    first, again, other = (traces(model, batches, seed, least_rounds=2, most_rounds=2).by_name for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again
    assert first != other


def test_stops_as_soon_as_every_error_is_small_enough():
    model, batches = seeded(mlp), batches_of(4)
    generator, seen = torch.Generator().manual_seed(0), []
    settings = TraceSettings(tolerance=0.05, least_rounds=4, most_rounds=500)
    last = {"4.weight": weights_of(model)["4.weight"]}
    found = hessian_traces(model, last, batches, F.cross_entropy, call, generator, settings, lambda *told: seen.append(told))
    assert found.converged
    assert seen[-1][1] <= 0.05
    assert all(error > 0.05 for number, error in seen if 4 <= number < seen[-1][0])
    assert found.products == 2 * found.rounds


def test_a_maximum_ends_it_too():
    found = traces(seeded(mlp), batches_of(4), tolerance=1e-9, least_rounds=2, most_rounds=3)
    assert not found.converged
    assert found.rounds == 3


def test_a_loss_without_curvature_has_a_trace_of_zero():
    model = nn.Linear(4, 1, bias=False)
    found = traces(model, batches_of(4), loss=lambda outputs, targets: outputs.mean())
    assert found.by_name["weight"].value == 0.0
    assert found.converged


def test_what_does_not_reach_the_loss_is_named():
    model = seeded(mlp)
    weights = {**weights_of(model), "elsewhere": nn.Parameter(torch.ones(2, 2))}
    with pytest.raises(SecateursError, match="no gradient by every one of 4 weights"):
        traces(model, batches_of(4), weights=weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance: expected a number above 0"),
        ({"least_rounds": 1}, "least_rounds: expected at least 2"),
        ({"least_rounds": 9, "most_rounds": 8}, "most_rounds: expected at least least_rounds"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TraceSettings(**settings)
