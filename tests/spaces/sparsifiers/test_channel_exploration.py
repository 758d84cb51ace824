from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spaces.channels.cost import ChannelCost
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.errors import SecateursError, UnsupportedModelError
from spaces.execution.forward import call
from spaces.sparsifiers.channel_exploration import ChannelExploration, ChannelExplorationSettings
from spaces.sparsifiers.channel_values import ChannelValues
from spaces.sparsifiers.column_subset import leverage_scores, residuals
from spaces.sparsifiers.zeroing import removal_change
from tests.spaces.sparsifiers.test_gradient_cut import INPUTS, batch, mixed
from tests.spaces.zoo import ZOO, example, network
from tests.variants import few

STEPS = 20


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)


def explored(settings=None, optimizer=sgd, steps=STEPS, watch=None, model=None, inputs=INPUTS, total=None):
    """Return a trained network and its sparsifier; ``watch(step, model, sparsifier)`` is called after every step."""
    model = mixed() if model is None else model
    sparsifier = ChannelExploration(ChannelExplorationSettings(explorations=5) if settings is None else settings)
    optimizer = optimizer(model.train())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        sparsifier.trace(model, inputs, call)
        sparsifier.start(model, total or steps)
        sparsifier.bind(optimizer)
        for step in range(steps):
            images, targets = batch(step)
            sparsifier.before_forward(images, targets)
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            loss.backward()
            sparsifier.after_backward()
            optimizer.step()
            sparsifier.after_step()
            if watch is not None:
                watch(step + 1, model, sparsifier)
        sparsifier.finish()
    return model, sparsifier


def used(sparsifier):
    return np.concatenate([mask.numpy() for mask in sparsifier.keep_masks().values()])


def test_leverage_is_that_of_the_largest_singular_vectors():
    vectors = torch.randn(7, 20, dtype=torch.float64)
    basis = torch.linalg.svd(vectors)[0][:, :3]
    torch.testing.assert_close(leverage_scores(vectors @ vectors.T, 3), basis.square().sum(1))
    vectors[[1, 4]] = 0.0
    scores = leverage_scores(vectors @ vectors.T, 6)
    assert float(scores[[1, 4]].abs().max()) < 1e-12
    assert float(scores.sum()) == pytest.approx(5.0)


def test_what_is_not_spanned_is_the_residual_of_a_projection():
    vectors = torch.randn(7, 20, dtype=torch.float64)
    kept, others = torch.tensor([0, 3, 5]), torch.tensor([1, 6])
    solved = torch.linalg.lstsq(vectors[kept].T, vectors[others].T).solution
    left = (vectors[others].T - vectors[kept].T @ solved).square().sum(0)
    torch.testing.assert_close(residuals(vectors @ vectors.T, kept, others), left)
    vectors[others] = vectors[kept[:2]]
    assert residuals(vectors @ vectors.T, kept, others).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "case",
    few(
        [
            ({"macs": 0.4}, sgd),
            ({"ratio": 0.6}, sgd),
            ({"macs": 0.5, "round_to": 4}, lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3)),
        ]
    ),
)
def test_it_ends_at_what_was_asked_for_and_what_goes_changes_nothing(case):
    settings, optimizer = case
    model, sparsifier = explored(ChannelExplorationSettings(explorations=5, **settings), optimizer)
    groups, mask = sparsifier.channel_groups, used(sparsifier)
    assert sparsifier.finished
    assert sparsifier.complete
    if "macs" in settings:
        cost = ChannelCost(model, groups)
        share = cost.of(mask)["macs"] / cost.of(np.ones(groups.width, dtype=bool))["macs"]
        assert settings["macs"] - 0.16 < share <= settings["macs"]
    else:
        assert int((~mask).sum()) == int(settings["ratio"] * groups.width)
    step = settings.get("round_to", 1)
    assert all(int(part.sum()) % step == 0 or part.all() for part in sparsifier.keep_masks().values())
    small = apply_cut(model, plan_cut(groups, mask))
    assert removal_change(model, small, INPUTS, call) < 1e-6
    assert any(one["reached"] != other["reached"] for one in sparsifier.shares() for other in sparsifier.shares())


def test_channels_leave_and_come_back_with_the_values_they_had(monkeypatch):
    course, original = [], ChannelValues.use

    def use(values, used):
        before = {name: tensor.detach().clone() for name, tensor in values._tensors.items()}
        was = values.used.clone()
        original(values, used)
        course.append((was, before, used.clone(), {name: tensor.detach().clone() for name, tensor in values._tensors.items()}))

    monkeypatch.setattr(ChannelValues, "use", use)
    _, sparsifier = explored(ChannelExplorationSettings(macs=0.4, explorations=8, explore=0.8), steps=24)
    assert sparsifier.schedule["steps"] == [3, 5, 8, 10, 12, 15, 17, 20]
    assert len(course) == 8
    counts = [[int(mask.sum()) for mask in sparsifier.channel_groups.parts(used.numpy()).values()] for _, _, used, _ in course]
    assert sum(counts[0]) > sum(counts[-1])
    inner = next(group for group in sparsifier.channel_groups.groups if group.name == "inner.0")
    held, returned = {}, 0
    for was, before, used, after in course:
        for channel in range(inner.size):
            place, tensors = inner.offset + channel, ("inner.1.weight", "inner.1.bias", "inner.2.weight", "inner.2.running_var")
            if was[place] and not used[place]:
                held[channel] = [before[name][channel] for name in tensors]
                assert not any(bool(after[name][channel].any()) for name in tensors)
                assert not bool(after["outer.0.weight"][:, channel].any())
            elif used[place] and not was[place]:
                returned += 1
                assert all(torch.equal(after[name][channel], one) for name, one in zip(tensors, held[channel], strict=True))
                assert bool(after["outer.0.weight"][:, channel].any())
    assert returned


def test_budgets_move_to_the_layer_with_large_scaling_factors():
    def kept(pushed):
        def watch(step, model, sparsifier):
            if pushed and step > 8:
                with torch.no_grad():
                    model.inner[2].weight.mul_(1.5)

        _, sparsifier = explored(ChannelExplorationSettings(ratio=0.6, explorations=8), watch=watch)
        return {name: int(mask.sum()) for name, mask in sparsifier.keep_masks().items()}

    without, pushed = kept(False), kept(True)
    assert pushed["inner.0"] > without["inner.0"]
    assert sum(pushed.values()) == sum(without.values()) == 12


def test_without_regrowth_nothing_comes_back():
    def course(regrow):
        seen = []
        settings = ChannelExplorationSettings(ratio=0.5, regrow=regrow, explorations=5)
        explored(settings, watch=lambda step, model, sparsifier: seen.append(used(sparsifier)))
        return np.stack(seen)

    alone, grown = course(0.0), course(0.3)
    assert not (alone[1:] & ~alone[:-1]).any()
    assert (grown[1:] & ~grown[:-1]).any()


def test_what_is_out_does_not_learn():
    def watch(step, model, sparsifier):
        gone = ~sparsifier.keep_masks()["last"].numpy()
        assert not gone.any() or not bool(model.last.weight[gone].any() or model.head.weight[:, gone].any())
        assert sparsifier.finished is (step >= 15)

    explored(watch=watch)


def test_a_training_that_ends_early_is_concluded_with_all_that_was_asked_for():
    _, sparsifier = explored(ChannelExplorationSettings(ratio=0.5), steps=6, total=40)
    mask = used(sparsifier)
    assert int((~mask).sum()) == len(mask) // 2
    assert not sparsifier.finished


@pytest.mark.parametrize("name", few(sorted(ZOO)))
def test_every_kind_of_coupling_goes_without_a_trace(name):
    model, inputs = network(name), example(name)
    sparsifier = ChannelExploration(ChannelExplorationSettings(ratio=0.4))
    try:
        sparsifier.trace(model, inputs, call)
    except UnsupportedModelError:
        pytest.skip("no channel of it can go without a trace")
    sparsifier.start(model, 2)
    sparsifier.finish()
    groups, mask = sparsifier.channel_groups, used(sparsifier)
    assert not mask.all()
    assert removal_change(model, apply_cut(model, plan_cut(groups, mask)), inputs, call) < 1e-5


def test_what_cannot_be_is_refused():
    with pytest.raises(SecateursError, match="expected trace before start"):
        ChannelExploration(ChannelExplorationSettings()).start(mixed(), 4)
    with pytest.raises(UnsupportedModelError, match=r"macs 0.001 is out of reach"):
        ChannelExploration(ChannelExplorationSettings(macs=0.001)).trace(mixed(), INPUTS, call)
    _, sparsifier = explored(steps=2)
    state = sparsifier.state_dict()
    with pytest.raises(SecateursError, match="this network's are of shape"):
        sparsifier.load_state_dict({**state, "used": state["used"][:3]})


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"ratio": 0.0}, "ratio"),
        ({"macs": 1.0}, "macs"),
        ({"regrow": 1.0}, "regrow"),
        ({"explorations": 0}, "explorations"),
        ({"explore": 0.0}, "explore"),
        ({"max_ratio": 0.0}, "max_ratio"),
        ({"ratio": 0.97}, "ratio"),
        ({"round_to": 0}, "round_to"),
    ],
)
def test_wrong_settings_are_refused(options, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        ChannelExplorationSettings(**options)
