"""Gao, Wang, Jing, Yu (SSI 2022): the gradient cut as printed, against the update written out by hand; and the two angles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spaces.errors import SecateursError
from spaces.execution.forward import call
from spaces.importance.criterion import make_criterion
from spaces.sparsifiers.gradient_cut import GradientCut, GradientCutSettings

STEPS, LR, BETA, ETA = 30, 0.05, 0.9, 0.02
PLAIN = GradientCutSettings(
    ratio=0.5, importance="l1", smoothing=0.0, ramp=0.0, freeze=1.0, decay_by="weight_decay", max_ratio=0.9
)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(16, 6, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def test_every_step_splits_the_filters_and_cuts_the_redundant_ones_off_the_gradient() -> None:
    """``Z <- beta Z + eta W + B o dL/dW;  W <- W - lr Z``, B by importance and ratio, at every step."""
    model, by_hand = network(), network()
    sparsifier = GradientCut(PLAIN)
    sparsifier.trace(model, torch.zeros(1, 6), call)
    sparsifier.start(model, STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=BETA, weight_decay=ETA)
    sparsifier.bind(optimizer)
    momenta = [torch.zeros_like(parameter) for parameter in by_hand.parameters()]
    splits = set()
    for number in range(STEPS):
        inputs, targets = batch(number)
        sparsifier.before_forward(inputs, targets)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        sparsifier.after_backward()
        optimizer.step()

        loss = nn.functional.cross_entropy(by_hand(inputs), targets)
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            redundant = by_hand[0].weight.abs().sum(1).argsort()[:4]
            splits.add(tuple(sorted(redundant.tolist())))
            for place, (parameter, momentum, gradient) in enumerate(zip(by_hand.parameters(), momenta, gradients, strict=True)):
                mask = torch.ones_like(gradient)
                if place < 2:
                    mask[redundant] = 0.0
                momentum.mul_(BETA).add_(ETA * parameter + mask * gradient)
                parameter.sub_(LR * momentum)
        for own, other in zip(model.parameters(), by_hand.parameters(), strict=True):
            assert torch.allclose(own, other, rtol=1e-5, atol=1e-7)
        if number < STEPS - 1:
            sparsifier.after_step()
    left = model[0].weight.detach().abs().max(1).values[redundant]
    sparsifier.after_step()
    assert sparsifier.finished
    assert not model[0].weight[redundant].any()
    assert not model[2].weight[:, redundant].any() or not model[0].bias[redundant].any()
    told = sparsifier.schedule
    assert told["left"] >= float(left.max()) > 0.01
    assert "weight decay alone; when they were removed, they had" in told["text"]
    assert sparsifier.shares() == [{"name": "0", "channels": 8, "asked": 0.5, "reached": 0.5}]


def test_a_filter_comes_back_while_the_split_moves() -> None:
    model = network()
    sparsifier = GradientCut(PLAIN)
    sparsifier.trace(model, torch.zeros(1, 6), call)
    sparsifier.start(model, STEPS)
    for step in range(2):
        with torch.no_grad():
            model[0].weight.copy_(torch.arange(8.0)[:, None].expand(8, 6) if step == 0 else torch.arange(8.0).flip(0)[:, None])
        inputs, targets = batch(step)
        sparsifier.before_forward(inputs, targets)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        sparsifier.after_backward()
        (mask,) = sparsifier.keep_masks().values()
        assert np.flatnonzero(~mask.numpy()).tolist() == ([0, 1, 2, 3] if step == 0 else [4, 5, 6, 7])
        sparsifier.after_step()


def test_without_a_weight_decay_nothing_would_fade() -> None:
    model = network()
    sparsifier = GradientCut(PLAIN)
    sparsifier.trace(model, torch.zeros(1, 6), call)
    sparsifier.start(model, STEPS)
    with pytest.raises(SecateursError, match=r"expected optimizer\.weight_decay above 0, got 0"):
        sparsifier.bind(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="needs decay_by: weight_decay"):
        GradientCutSettings(freeze=1.0)
    with pytest.raises(ValueError, match="ratio: 0.98 is above max_ratio, 0.95"):
        GradientCutSettings(ratio=0.98)


def test_importance_is_the_product_of_effect_and_relevance() -> None:
    """``S_j = (T_j / mean T) (D_j / mean D)``, ``T_j = |sum w dL/dw|``, ``D_j`` Fisher's ratio of the filter's activation."""
    model = network()
    sparsifier = GradientCut(PLAIN)
    sparsifier.trace(model, torch.zeros(1, 6), call)
    criterion = make_criterion("relevance_loss", model, sparsifier.channel_groups)
    inputs, targets = batch(0)
    criterion.begin(targets)
    nn.functional.cross_entropy(model(inputs), targets).backward()
    criterion.end()
    weight, bias = model[0].weight, model[0].bias
    effect = ((weight * weight.grad).sum(1) + bias * bias.grad).abs().detach().double()
    activation = model[1](model[0](inputs)).detach().double()
    mean = activation.mean(0)
    between, within = torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    for label in targets.unique():
        own = activation[targets == label]
        between += len(own) / 16 * (own.mean(0) - mean) ** 2
        within += ((own - own.mean(0)) ** 2).sum(0) / 16
    ratio = torch.where(within > 0, between / within.clamp_min(1e-30), 0.0)
    expected = (effect / effect.mean()) * (ratio / ratio.mean())
    assert torch.allclose(criterion.values(), expected, rtol=1e-4)
