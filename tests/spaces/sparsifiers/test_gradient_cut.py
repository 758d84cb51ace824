from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from spaces.channels.check import find_checked_groups
from spaces.channels.cost import ChannelCost
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.errors import EquivalenceError, MissingLabelsError, SecateursError, UnsupportedModelError
from spaces.execution.forward import call
from spaces.importance.relevance_loss import RelevanceLoss
from spaces.sparsifiers.channel_split import ChannelSplit
from spaces.sparsifiers.gradient_cut import GradientCut, GradientCutSettings
from spaces.sparsifiers.zeroing import largest_weights, lossless_groups
from tests.spaces.zoo import ZOO, example, network
from tests.variants import few


class Mixed(nn.Module):
    """A residual block, a depthwise convolution, and biases without a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(
            nn.Conv2d(8, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12), nn.ReLU()
        )
        self.outer = nn.Sequential(nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8))
        self.last = nn.Conv2d(8, 10, 3, padding=1)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.outer(self.inner(x)))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


def mixed(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Mixed()


INPUTS = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def batch(number: int, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    targets = torch.randint(0, 3, (size,), generator=generator)
    return torch.randn(size, 3, 6, 6, generator=generator) + targets[:, None, None, None], targets


def sgd(momentum: float):
    return lambda model: torch.optim.SGD(model.parameters(), lr=0.02, momentum=momentum, weight_decay=5e-4)


def adamw(momentum: float):
    return lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(momentum, 0.999), weight_decay=1e-2)


def train(model, sparsifier, steps: int, optimizer=None, first: int = 0, total: int | None = None, watch=None) -> nn.Module:
    optimizer = optimizer if optimizer is not None else sgd(0.9)(model)
    model.train()
    if first == 0 and sparsifier is not None:
        sparsifier.trace(model, INPUTS, call)
        sparsifier.start(model, total if total is not None else steps)
    for number in range(first, steps):
        inputs, targets = batch(number)
        if sparsifier is not None:
            sparsifier.before_forward(inputs, targets)
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        if sparsifier is not None:
            sparsifier.after_backward()
        optimizer.step()
        if sparsifier is not None:
            sparsifier.after_step()
        if watch is not None:
            watch(number)
    return model


def removed_change(model: nn.Module, sparsifier: GradientCut) -> float:
    groups = sparsifier.channel_groups
    assert groups is not None
    mask = np.concatenate([sparsifier.keep_masks()[group.name].numpy() for group in groups.groups])
    assert not mask.all()
    small = apply_cut(model.eval(), plan_cut(groups, mask))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    inputs, _ = batch(999)
    with torch.no_grad():
        return float((small(inputs) - model(inputs)).abs().max())


@pytest.mark.parametrize(
    "optimizer", [sgd(0.9), sgd(0.98), adamw(0.9), adamw(0.98)], ids=["sgd.9", "sgd.98", "adamw.9", "adamw.98"]
)
@pytest.mark.parametrize("importance", few(["relevance_loss", "l2"]))
def test_cut_filters_are_zero_at_the_end_whatever_the_optimizer(optimizer, importance: str) -> None:
    model = mixed()
    sparsifier = GradientCut(GradientCutSettings(ratio=0.5, importance=importance))
    largest = {}

    def watch(number: int) -> None:
        gone = ~torch.cat(list(sparsifier.keep_masks().values()))
        if gone.any():
            largest[number] = float(largest_weights(model, sparsifier.channel_groups)[gone].max())

    train(model, sparsifier, 60, optimizer(model), watch=watch)
    assert sparsifier.finished
    # Before the last step's exact zeros, the decay alone is on its way to 1e-7.
    assert 0 < largest[58] < 1e-6
    assert largest[59] == 0.0
    assert largest[40] > largest[50] > largest[58]
    assert removed_change(model, sparsifier) < 1e-5
    for group in sparsifier.channel_groups.groups:
        assert int((~sparsifier.keep_masks()[group.name]).sum()) == group.size // 2


def test_without_anything_to_cut_training_is_the_same_to_the_last_bit() -> None:
    plain, watched = mixed(), mixed()
    train(plain, None, 12)
    before = torch.random.get_rng_state()
    train(watched, GradientCut(GradientCutSettings(ratio=0.0)), 12)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(plain.state_dict()[name], tensor) for name, tensor in watched.state_dict().items())


def test_cut_filters_get_no_gradient_and_no_step_of_the_optimizer() -> None:
    model = mixed()
    sparsifier = GradientCut(GradientCutSettings(ratio=0.5, ramp=0.0, freeze=0.0, importance="l2"))
    before = model.last.weight.detach().clone()
    train(model, sparsifier, 1, sgd(0.9)(model), total=10)
    gone = ~sparsifier.keep_masks()["last"]
    assert int(gone.sum()) == 5
    ratio = model.last.weight.detach()[gone] / before[gone]
    torch.testing.assert_close(ratio, ratio.flatten(1)[:, :1, None, None].expand_as(ratio), rtol=1e-4, atol=1e-6)
    assert bool((ratio > 0).all() and (ratio < 1).all())
    assert float(model.last.weight.grad[gone].abs().max()) == 0.0
    assert float(model.last.weight.grad[~gone].abs().min()) > 0.0


def test_a_filter_comes_back_while_it_still_has_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mixed()
    sparsifier = GradientCut(GradientCutSettings(ratio=0.5, ramp=0.0, freeze=0.5))
    optimizer = sgd(0.9)(model)
    train(model, sparsifier, 3, optimizer, total=40)
    gone = sparsifier.keep_masks()["last"].logical_not().nonzero().flatten()
    back = int(gone[0])
    shrunken = float(model.last.weight[back].detach().abs().max())
    # It turns out to matter more than any other.
    place = next(group.offset for group in sparsifier.channel_groups.groups if group.name == "last") + back
    values = RelevanceLoss.values
    with monkeypatch.context() as patched:
        patched.setattr(RelevanceLoss, "values", lambda own: values(own).index_fill(0, torch.tensor([place]), 1e6))
        train(model, sparsifier, 20, optimizer, first=3)
    assert bool(sparsifier.keep_masks()["last"][back])
    assert float(model.last.weight[back].detach().abs().max()) > shrunken
    train(model, sparsifier, 40, optimizer, first=20)
    assert bool(sparsifier.keep_masks()["last"][back])
    assert removed_change(model, sparsifier) < 1e-5


def test_no_filter_comes_back_once_the_split_is_frozen() -> None:
    model = mixed()
    sparsifier = GradientCut(GradientCutSettings(ratio=0.5, freeze=0.5))
    seen = []
    train(model, sparsifier, 30, watch=lambda number: seen.append(torch.cat(list(sparsifier.keep_masks().values()))))
    assert all(torch.equal(mask, seen[15]) for mask in seen[15:])
    numbers = [int((~mask).sum()) for mask in seen]
    assert numbers == sorted(numbers)
    assert numbers[0] < numbers[4] < numbers[15]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("macs", [0.5, 0.15])
def test_a_macs_target_is_kept_and_used(scope: str, macs: float) -> None:
    model = mixed()
    sparsifier = GradientCut(GradientCutSettings(macs=macs, scope=scope, max_ratio=0.9))
    train(model, sparsifier, 20)
    groups = sparsifier.channel_groups
    mask = torch.cat([sparsifier.keep_masks()[group.name] for group in groups.groups]).numpy()
    cost = ChannelCost(model, groups)
    share = cost.of(mask)["macs"] / cost.of(np.ones(groups.width, dtype=bool))["macs"]
    assert 0.6 * macs < share <= macs
    assert all(bool(kept.any()) for kept in sparsifier.keep_masks().values())
    assert removed_change(model, sparsifier) < 1e-5


def test_the_split_is_the_smallest_that_keeps_the_target() -> None:
    model = mixed()
    groups = find_checked_groups(model, INPUTS)
    rng = np.random.default_rng(0)
    cost = ChannelCost(model, groups)
    split = ChannelSplit(cost, groups, 0.5, {}, 0.4, "global", 0.9)
    whole = cost.of(np.ones(groups.width, dtype=bool))["macs"]
    for _ in range(10):
        scores = rng.gamma(0.5, size=groups.width)
        gone = split.redundant(scores)
        assert cost.of(~gone)["macs"] <= 0.4 * whole
        blocks = [scores[group.offset : group.offset + group.size] for group in groups.groups]
        relative = np.concatenate([block / block.mean() for block in blocks])
        last = max(np.flatnonzero(gone), key=lambda place: relative[place])
        gone[last] = False
        assert cost.of(~gone)["macs"] > 0.4 * whole


@pytest.mark.parametrize("macs", [0.6, 0.25, 0.1])
def test_the_same_share_of_every_layer_uses_the_target_up(macs: float) -> None:
    model = mixed()
    groups = find_checked_groups(model, INPUTS)
    cost = ChannelCost(model, groups)
    whole = cost.of(np.ones(groups.width, dtype=bool))["macs"]
    gone = ChannelSplit(cost, groups, 0.5, {}, macs, "layer", 0.95).redundant(np.arange(groups.width, dtype=float))
    assert cost.of(~gone)["macs"] <= macs * whole
    shares = []
    for group in groups.groups:
        block = slice(group.offset, group.offset + group.size)
        shares.append(float((~gone[block]).sum()) / group.size)
        if gone[block].any():
            more = ~gone
            more[group.offset + int(np.flatnonzero(gone[block])[0])] = True
            assert cost.of(more)["macs"] > macs * whole
    assert max(shares) - min(shares) < 0.25


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("macs", [None, 0.5])
def test_kept_channels_come_in_multiples(scope: str, macs: float | None) -> None:
    model = mixed()
    groups = find_checked_groups(model, INPUTS)
    cost = ChannelCost(model, groups)
    scores = np.random.default_rng(0).gamma(0.5, size=groups.width)
    gone = {step: ChannelSplit(cost, groups, 0.5, {}, macs, scope, 0.95, step).redundant(scores) for step in (1, 4)}
    for group in groups.groups:
        kept = int((~gone[4][group.offset : group.offset + group.size]).sum())
        assert kept > 0
        assert kept % 4 == 0 or kept == group.size
    assert gone[4].any()
    if macs is None:
        assert gone[4].sum() <= gone[1].sum()
    else:
        assert cost.of(~gone[4])["macs"] <= macs * cost.of(np.ones(groups.width, dtype=bool))["macs"]


def test_within_a_target_ratios_say_how_layers_share_it() -> None:
    removed = []
    for ratios in ({"last": 0.8}, {"stem*": 0.8, "inner*": 0.8, "outer*": 0.8}):
        sparsifier = GradientCut(GradientCutSettings(macs=0.4, ratios=ratios))
        model = train(mixed(), sparsifier, 8)
        groups = sparsifier.channel_groups
        masks = sparsifier.keep_masks()
        removed.append({group.name: float((~masks[group.name]).float().mean()) for group in groups.groups})
        cost = ChannelCost(model, groups)
        mask = np.concatenate([masks[group.name].numpy() for group in groups.groups])
        assert cost.of(mask)["macs"] <= 0.4 * cost.of(np.ones(groups.width, dtype=bool))["macs"]
    assert removed[0]["last"] > max(share for name, share in removed[0].items() if name != "last")
    assert removed[1]["last"] < min(share for name, share in removed[1].items() if name != "last")


def test_single_groups_have_ratios_of_their_own() -> None:
    sparsifier = GradientCut(GradientCutSettings(ratio=0.0, ratios={"las*": 0.8}))
    train(mixed(), sparsifier, 6)
    removed = {name: int((~mask).sum()) for name, mask in sparsifier.keep_masks().items()}
    assert removed.pop("last") == 8
    assert set(removed.values()) == {0}


@pytest.mark.parametrize("name", list(ZOO))
def test_every_kind_of_coupling_is_zeroed_without_a_trace_or_frozen_with_a_reason(name: str) -> None:
    model = network(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    checked = find_checked_groups(model, example(name))
    groups = lossless_groups(model, checked, example(name), call)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    lost = {group.name for group in checked.groups} - {group.name for group in groups.groups}
    assert lost == {"layer_normed": {"stem"}, "attention": {"attention#2"}}.get(name, set())
    assert all(group.reason for group in groups.frozen if group.name in lost)


def test_a_sigmoid_makes_something_of_zero_and_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))
    groups = lossless_groups(model, find_checked_groups(model, INPUTS), INPUTS, call)
    assert [group.name for group in groups.groups] == ["2"]
    assert "makes something of a zero channel" in next(group.reason for group in groups.frozen if group.name == "0")


def test_the_decay_may_end_before_training_does() -> None:
    model = mixed()
    sparsifier = GradientCut(GradientCutSettings(ratio=0.5, ramp=0.1, freeze=0.3, decay=0.6))
    largest, heads = {}, {}

    def watch(number: int) -> None:
        gone = ~torch.cat(list(sparsifier.keep_masks().values()))
        if gone.any():
            largest[number] = float(largest_weights(model, sparsifier.channel_groups)[gone].max())
        heads[number] = model.head.weight.detach().clone()
        assert sparsifier.finished == sparsifier.complete == (number >= 23)

    train(model, sparsifier, 40, adamw(0.9)(model), watch=watch)
    assert 0 < largest[22] < 1e-6
    assert {largest[number] for number in range(23, 40)} == {0.0}
    assert not torch.equal(heads[24], heads[39])
    assert removed_change(model, sparsifier) < 1e-5


def test_a_training_that_ends_early_is_concluded_with_all_that_was_asked_for() -> None:
    for done in (2, 12, 30):
        model = mixed()
        sparsifier = GradientCut(GradientCutSettings(ratio=0.5))
        train(model, sparsifier, done, total=30)
        sparsifier.finish()
        for group in sparsifier.channel_groups.groups:
            assert int((~sparsifier.keep_masks()[group.name]).sum()) == group.size // 2
        assert removed_change(model, sparsifier) < 1e-5


def test_state_goes_on_exactly() -> None:
    settings = GradientCutSettings(ratio=0.5)
    straight = mixed()
    train(straight, GradientCut(settings), 20, torch.optim.SGD(straight.parameters(), lr=0.02))
    for middle in (4, 15):
        stopped, first = mixed(), GradientCut(settings)
        train(stopped, first, middle, torch.optim.SGD(stopped.parameters(), lr=0.02), total=20)
        resumed, second = mixed(seed=1), GradientCut(settings)
        second.trace(resumed, INPUTS, call)
        second.start(resumed, 20)
        resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        train(resumed, second, 20, torch.optim.SGD(resumed.parameters(), lr=0.02), first=middle)
        assert all(torch.equal(straight.state_dict()[name], tensor) for name, tensor in resumed.state_dict().items())


def test_filters_that_do_not_reach_zero_are_an_error() -> None:
    model = mixed()
    sparsifier = GradientCut(GradientCutSettings(ratio=0.5))
    train(model, sparsifier, 9, total=10)
    state = sparsifier.state_dict()
    sparsifier.load_state_dict({**state, "factors": torch.ones_like(state["factors"])})
    with torch.no_grad():
        model.last.weight.fill_(1.0)
    with pytest.raises(EquivalenceError, match="below 1e-06"):
        train(model, sparsifier, 10, first=9)


def test_a_task_without_labels_is_named() -> None:
    sparsifier = GradientCut(GradientCutSettings())
    sparsifier.trace(mixed(), INPUTS, call)
    sparsifier.start(mixed(), 10)
    with pytest.raises(MissingLabelsError, match="task has none"):
        sparsifier.before_forward(INPUTS, None)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="out of reach"):
        GradientCut(GradientCutSettings(macs=0.001, max_ratio=0.5)).trace(mixed(), INPUTS, call)
    with pytest.raises(UnsupportedModelError, match="no filter of this network can be cut"):
        GradientCut(GradientCutSettings(exclude=("*",))).trace(mixed(), INPUTS, call)
    with pytest.raises(SecateursError, match="expected trace before start"):
        GradientCut(GradientCutSettings()).start(mixed(), 10)


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 1.0},
        {"ratios": {"a": -0.1}},
        {"macs": 0.0},
        {"ramp": 0.6, "freeze": 0.5},
        {"freeze": 1.0},
        {"freeze": 0.5, "decay": 0.5},
        {"decay": 1.1},
        {"ratios": {"a": 0.1}, "scope": "global"},
        {"smoothing": 1.0},
        {"exponent": -1.0},
        {"max_ratio": 0.0},
        {"round_to": 0},
    ],
)
def test_wrong_settings_are_refused(options) -> None:
    with pytest.raises(ValueError, match="expected|must|only"):
        GradientCutSettings(**options)
