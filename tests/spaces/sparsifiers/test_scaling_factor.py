import math

import pytest
import torch
from torch import nn

from spaces.errors import UnsupportedModelError
from spaces.sparsifiers.scaling_factor import ScalingFactor, ScalingFactorSettings, penalty_slope, penalty_value


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.GroupNorm(2, 6)
    )


@pytest.mark.parametrize("penalty", ["l1_half", "l1"])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-4])
def test_slope_is_the_derivative_of_the_value(penalty, epsilon):
    factors = torch.linspace(-2, 2, 41, dtype=torch.float64)
    factors = factors[factors.abs() > 1e-9].requires_grad_()
    penalty_value(factors, penalty, epsilon).backward()
    torch.testing.assert_close(penalty_slope(factors.detach(), penalty, epsilon), factors.grad)


def test_value_is_the_formula_of_the_method():
    factors = torch.tensor([0.0, -0.21, 0.35])
    expected = math.sqrt(0.01) + math.sqrt(0.22) + math.sqrt(0.36)
    assert float(penalty_value(factors, "l1_half", 1e-2)) == pytest.approx(expected)
    assert float(penalty_value(factors, "l1", 1e-2)) == pytest.approx(0.56)


@pytest.mark.parametrize(("epsilon", "limit"), [(1e-2, 5.0), (1e-4, 50.0)])
def test_slope_is_limited(epsilon, limit):
    slopes = penalty_slope(torch.logspace(-12, 2, 200, dtype=torch.float64), "l1_half", epsilon)
    assert float(slopes.max()) <= limit
    assert float(slopes.max()) == pytest.approx(limit, rel=1e-3)
    assert (slopes.diff() <= 0).all()
    assert float(penalty_slope(torch.zeros(1), "l1_half", epsilon)) == 0.0


@pytest.mark.parametrize("penalty", ["l1_half", "l1"])
def test_gradient_of_the_whole_objective_equals_autograd(penalty):
    model, images = network(), torch.randn(4, 3, 5, 5)
    model[1].weight.data.normal_()
    sparsifier = ScalingFactor(ScalingFactorSettings(penalty=penalty, strength=0.3))
    sparsifier.start(model, total_steps=1)
    loss = model(images).square().mean()
    objective = loss + 0.3 * penalty_value(model[1].weight, penalty, 1e-2)
    expected = torch.autograd.grad(objective, list(model.parameters()), retain_graph=True)
    value = sparsifier.penalty()
    (loss + value).backward()
    sparsifier.after_backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert float(value.detach()) == pytest.approx(0.3 * float(penalty_value(model[1].weight.detach(), penalty, 1e-2)))


@pytest.mark.parametrize("penalty", ["l1_half", "l1"])
def test_training_drives_useless_factors_to_zero_and_keeps_the_useful(penalty):
    inputs = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
    targets = inputs[:, :2].sum(dim=1, keepdim=True)
    norm = nn.BatchNorm1d(16)
    model = nn.Sequential(norm, nn.Linear(16, 1))
    nn.init.constant_(model[1].weight, 0.5)
    model[1].weight.data[:, 2:] = 0.0
    model[1].weight.requires_grad_(False)
    sparsifier = ScalingFactor(ScalingFactorSettings(penalty=penalty, strength=5e-2))
    sparsifier.start(model, total_steps=500)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        ((model(inputs) - targets).square().mean() + sparsifier.penalty()).backward()
        optimizer.step()
    scales = norm.weight.detach().abs()
    assert float(scales[2:].max()) < 0.05
    assert float(scales[:2].min()) > 0.5


def test_layers_and_patterns_choose_the_factors():
    model = network()
    for settings, expected in [
        (ScalingFactorSettings(), ["1"]),
        (ScalingFactorSettings(layers="all_norms"), ["1", "4"]),
        (ScalingFactorSettings(layers="all_norms", include=("4",)), ["4"]),
        (ScalingFactorSettings(layers="all_norms", exclude=("[12]*",)), ["4"]),
    ]:
        sparsifier = ScalingFactor(settings)
        sparsifier.start(model, total_steps=1)
        assert list(sparsifier.factors) == expected


def test_no_batch_norm_is_an_error_that_says_what_to_do():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
    with pytest.raises(UnsupportedModelError, match="BatchNorm.*all_norms"):
        ScalingFactor(ScalingFactorSettings()).start(model, total_steps=1)
    with pytest.raises(UnsupportedModelError, match="leave no normalisation layer"):
        ScalingFactor(ScalingFactorSettings(exclude=("*",))).start(network(), total_steps=1)


def test_frozen_factors_are_left_alone():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[0].weight.requires_grad_(False)
    sparsifier = ScalingFactor(ScalingFactorSettings())
    sparsifier.start(model, total_steps=1)
    assert list(sparsifier.factors) == ["2"]


@pytest.mark.parametrize("options", [{"strength": -1.0}, {"epsilon": 0.0}, {"strength": math.nan}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ScalingFactorSettings(**options)
