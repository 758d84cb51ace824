"""Second moments of gradients, against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluators.sensitivity.second_moment import NoGradientError, adam_second_moment, empirical_fisher
from tests.evaluators.sensitivity.small_networks import batches_of, call, mlp, seeded, weights_of


def by_hand(model, inputs, targets):
    model.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    found = {name: weight.grad.clone() for name, weight in weights_of(model).items()}
    model.zero_grad(set_to_none=True)
    return found


def test_adam_is_the_state_of_torchs_adam_without_its_bias_times_the_batch_size():
    model, batches = seeded(mlp), batches_of(4, sizes=(8, 8, 8, 3))
    found = adam_second_moment(model, weights_of(model), batches, F.cross_entropy, call, beta=0.9)
    weights = weights_of(model)
    optimizer = torch.optim.Adam(weights.values(), lr=0.0, betas=(0.9, 0.9))
    for inputs, targets in batches[:3]:
        for name, gradient in by_hand(model, inputs, targets).items():
            weights[name].grad = gradient
        optimizer.step()
    for name, weight in weights.items():
        state = optimizer.state[weight]
        torch.testing.assert_close(found.diagonal[name], 8 * state["exp_avg_sq"] / (1 - 0.9 ** state["step"].item()))
    assert found.samples == 24


def test_fisher_is_the_mean_of_each_samples_squared_gradient():
    model, batches = seeded(mlp), batches_of(4, sizes=(3, 2))
    found = empirical_fisher(model, weights_of(model), batches, F.cross_entropy, call)
    singles = [by_hand(model, i[None], t[None]) for inputs, targets in batches for i, t in zip(inputs, targets, strict=True)]
    for name, diagonal in found.diagonal.items():
        squares = torch.stack([single[name] ** 2 for single in singles])
        torch.testing.assert_close(diagonal, squares.mean(dim=0))
        means = squares.flatten(1).mean(dim=1).double()
        assert found.mean[name] == pytest.approx(float(means.mean()))
        assert found.standard_error[name] == pytest.approx(float(means.std() / 5**0.5))
    assert found.samples == 5


def test_adam_estimates_fisher_where_gradients_average_out():
    model = seeded(lambda: nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        model.weight.zero_()
    batches = batches_of(4, sizes=(16,) * 60)
    fisher = empirical_fisher(model, weights_of(model), batches, F.cross_entropy, call)
    adam = adam_second_moment(model, weights_of(model), batches, F.cross_entropy, call)
    assert adam.mean["weight"] == pytest.approx(fisher.mean["weight"], rel=0.2)


def test_the_network_is_left_as_it_was():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))).train()
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    adam_second_moment(model, weights_of(model), batches_of(4, sizes=(8, 8)), F.cross_entropy, call)
    empirical_fisher(model, weights_of(model), batches_of(4), F.cross_entropy, call)
    assert model.training
    assert not model[0].weight.requires_grad
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", [adam_second_moment, empirical_fisher])
def test_too_little_to_average_is_an_error(method):
    model = seeded(mlp)
    with pytest.raises(NoGradientError, match="expected at least 2 batches of one size, got 1"):
        method(model, weights_of(model), batches_of(4, sizes=(1,)), F.cross_entropy, call)


def test_gradients_that_are_not_finite_are_an_error():
    model = seeded(mlp)
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    with pytest.raises(NoGradientError, match=r"gradient of the loss by 0\.weight is not finite"):
        empirical_fisher(model, weights_of(model), batches_of(4), F.cross_entropy, call)
