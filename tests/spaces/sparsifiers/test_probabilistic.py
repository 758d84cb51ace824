"""Structured probabilistic pruning: what is masked, what stays as it was, and what is gone at the end."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from spaces.channels.cost import ChannelCost
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.errors import SecateursError, UnsupportedModelError
from spaces.execution.forward import call
from spaces.importance.criterion import score
from spaces.sparsifiers.allocation import RatioAllocation, RatioProfile
from spaces.sparsifiers.participation import NEXT_TO_ZERO, Participation, PrunedLayer, updates_needed
from spaces.sparsifiers.penalty_function import make_penalty_function
from spaces.sparsifiers.probabilistic import COLUMNS_REMARK, SHORTEST_INTERVAL, Probabilistic, ProbabilisticSettings
from spaces.sparsifiers.pruned_groups import channel_tensors
from spaces.sparsifiers.random_masking import RandomMasking
from tests.spaces.sparsifiers.test_gradient_cut import INPUTS, adamw, batch, mixed, sgd


def step(model: nn.Module, optimizer: torch.optim.Optimizer, sparsifier: Probabilistic, number: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number // 10)
        inputs, targets = batch(number)
        sparsifier.before_forward(inputs, targets)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        sparsifier.after_backward()
        optimizer.step()
        sparsifier.after_step()


def begun(
    settings: ProbabilisticSettings, total: int = 200, make: Callable[[nn.Module], torch.optim.Optimizer] | None = None
) -> tuple[nn.Module, torch.optim.Optimizer, Probabilistic]:
    model = mixed().train()
    sparsifier = Probabilistic(settings)
    sparsifier.trace(model, INPUTS, call)
    sparsifier.start(model, total)
    optimizer = (make or sgd(0.9))(model)
    sparsifier.bind(optimizer)
    return model, optimizer, sparsifier


def trained(settings: ProbabilisticSettings, total: int = 200) -> tuple[nn.Module, Probabilistic]:
    model, optimizer, sparsifier = begun(settings, total)
    for number in range(total):
        step(model, optimizer, sparsifier, number)
    sparsifier.finish()
    return model, sparsifier


FAST = ProbabilisticSettings(largest=0.5, ratio=0.5)


@pytest.mark.parametrize("draw", ["weight", "group"])
@pytest.mark.parametrize("make", [sgd(0.0), sgd(0.9), adamw(0.9)], ids=["sgd", "momentum", "adamw"])
def test_claim_2_masked_weights_take_no_part_and_come_out_as_they_were(draw, make) -> None:
    """Claim 2: every step each weight takes part with its group's probability; what is masked is restored, not updated."""
    settings = ProbabilisticSettings(largest=0.2, interval=1, draw=draw)
    model, optimizer, sparsifier = begun(settings, make=make)
    for number in range(4):
        step(model, optimizer, sparsifier, number)
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    moments = {
        name: {key: value.clone() for key, value in optimizer.state[parameter].items() if value.shape == parameter.shape}
        for name, parameter in model.named_parameters()
    }
    inputs, targets = batch(4)
    torch.manual_seed(0)
    sparsifier.before_forward(inputs, targets)
    masked = {name: (parameter == 0) & (weights[name] != 0) for name, parameter in model.named_parameters()}
    taking_part = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    assert sum(int(mask.sum()) for mask in masked.values()) > 20
    for name, mask in masked.items():
        assert torch.equal(taking_part[name][~mask], weights[name][~mask])
    if draw == "group":
        rows = masked["stem.0.weight"].flatten(1)
        assert ((rows.all(1)) | (~rows.any(1))).all()
        assert torch.equal(rows.all(1), masked["stem.1.weight"])
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    sparsifier.after_backward()
    optimizer.step()
    sparsifier.after_step()
    for name, parameter in model.named_parameters():
        mask = masked[name]
        assert torch.equal(parameter[mask], weights[name][mask]), name
        if (~mask).any() and name.endswith("weight"):
            assert not torch.equal(parameter[~mask], weights[name][~mask]), name
        for key, before in moments[name].items():
            assert torch.equal(optimizer.state[parameter][key][mask], before[mask]), (name, key)


def test_masks_are_drawn_with_their_groups_probability() -> None:
    model, _, sparsifier = begun(ProbabilisticSettings(interval=1, draw="weight"))
    groups = sparsifier.channel_groups
    masking = RandomMasking(channel_tensors(model, groups, "filters", "weight"), "weight")
    chances = np.linspace(0.1, 1.0, groups.width)
    masking.set(chances)
    group = next(group for group in groups.groups if group.name == "last")
    rows = []
    whole = model.last.weight.detach().clone()
    for number in range(60):
        masking.apply(torch.Generator().manual_seed(number))
        rows.append((model.last.weight != 0).float().flatten(1).mean(1))
        masking.restore()
    assert torch.equal(model.last.weight, whole)
    expected = torch.from_numpy(chances[group.offset : group.offset + group.size]).float()
    assert torch.allclose(torch.stack(rows).mean(0), expected, atol=0.03)


@pytest.mark.parametrize("kind", ["filters", "input_channels"])
@pytest.mark.parametrize("draw", ["weight", "group"])
def test_removal_changes_nothing_and_every_layer_has_its_ratio(kind, draw) -> None:
    model, sparsifier = trained(ProbabilisticSettings(largest=0.5, ratio=0.4, groups=kind, draw=draw), total=60)
    groups, masks = sparsifier.channel_groups, sparsifier.keep_masks()
    assert sparsifier.finished
    for group in groups.groups:
        assert int((~masks[group.name]).sum()) == int(np.ceil(0.4 * group.size - 1e-9))
    kept = np.concatenate([masks[group.name].numpy() for group in groups.groups])
    exact = copy.deepcopy(model).double().eval()
    small = apply_cut(exact, plan_cut(groups, kept))
    inputs = batch(99)[0].double()
    assert torch.allclose(small(inputs), exact(inputs), atol=1e-12)


def test_pruning_ends_within_its_share_and_then_masks_are_fixed() -> None:
    model, optimizer, sparsifier = begun(FAST, total=80)
    for number in range(80):
        step(model, optimizer, sparsifier, number)
        if number == 45:
            assert sparsifier.finished
            assert sparsifier.complete
            masks = sparsifier.keep_masks()
    dead = ~masks["stem.0"]
    assert (model.stem[0].weight[dead] == 0).all()
    assert (model.stem[1].bias[dead] == 0).all()
    assert (optimizer.state[model.stem[0].weight]["momentum_buffer"][dead] == 0).all()
    assert all(torch.equal(masks[name], mask) for name, mask in sparsifier.keep_masks().items())
    assert (model.stem[0].weight[~dead] != 0).all()


def test_a_run_that_is_too_short_removes_the_groups_of_lowest_probability() -> None:
    model, optimizer, sparsifier = begun(ProbabilisticSettings(interval=1, largest=0.02), total=8)
    for number in range(8):
        step(model, optimizer, sparsifier, number)
    assert not sparsifier.finished
    p = sparsifier.channel_groups.parts(sparsifier.state_dict()["p"].numpy())
    sparsifier.finish()
    for name, mask in sparsifier.keep_masks().items():
        assert p[name][~mask.numpy()].max() <= p[name][mask.numpy()].min()


def test_the_interval_follows_from_the_steps_unless_given() -> None:
    assert begun(FAST, total=400)[2].interval > begun(FAST, total=200)[2].interval >= 1
    assert begun(ProbabilisticSettings(interval=7), total=400)[2].interval == 7


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_where_steps_are_few_the_penalty_is_raised_to_fit(share) -> None:
    model, optimizer, sparsifier = begun(ProbabilisticSettings(largest=0.05, share=share), total=60)
    assert 1 <= sparsifier.interval <= SHORTEST_INTERVAL
    done = []
    for number in range(60):
        step(model, optimizer, sparsifier, number)
        done.append(sparsifier.finished)
    # A little longer than derived: importance changes its order meanwhile.
    assert 0.5 * share * 60 < done.index(True) <= 1.2 * share * 60 + 2


@pytest.mark.parametrize("draw", ["weight", "group"])
def test_the_same_masks_are_drawn_after_a_kill(draw) -> None:
    settings = ProbabilisticSettings(interval=2, largest=0.2, draw=draw)
    model, optimizer, sparsifier = begun(settings)
    for number in range(10):
        step(model, optimizer, sparsifier, number)
    weights, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    state = {name: tensor.clone() for name, tensor in sparsifier.state_dict().items()}
    for number in range(10, 20):
        step(model, optimizer, sparsifier, number)
    again, other, resumed = begun(settings)
    again.load_state_dict(weights)
    other.load_state_dict(moments)
    resumed.load_state_dict(state)
    for number in range(10, 20):
        step(again, other, resumed, number)
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in again.state_dict().items())
    assert torch.equal(resumed.state_dict()["p"], sparsifier.state_dict()["p"])
    assert resumed.record() == sparsifier.record()
    with pytest.raises(SecateursError, match="probabilities of shape"):
        resumed.load_state_dict({**state, "p": torch.ones(3)})


def test_columns_stay_as_zeros_and_it_is_said() -> None:
    model, sparsifier = trained(ProbabilisticSettings(groups="columns", largest=0.5, ratio=0.5, exclude=("stem*",)), total=60)
    weight = model.last.weight.flatten(1)
    gone = (weight == 0).all(0)
    assert int(gone.sum()) == weight.shape[1] // 2
    assert (weight[:, ~gone] != 0).all()
    assert (model.stem[0].weight != 0).all()
    assert sparsifier.channel_groups is None
    assert not sparsifier.keep_masks()
    assert sparsifier.remark == COLUMNS_REMARK
    assert "save no MACs" in COLUMNS_REMARK
    assert Probabilistic(FAST).remark == ""


def test_excluded_layers_are_respected() -> None:
    _, sparsifier = trained(ProbabilisticSettings(largest=0.5, ratio=0.5, exclude=("inner.*",)), total=60)
    masks = sparsifier.keep_masks()
    assert not any(name.startswith("inner") for name in masks)
    assert all(int((~mask).sum()) == len(mask) // 2 for mask in masks.values())


def test_a_ratio_above_the_largest_is_refused_with_both_numbers_and_not_clipped() -> None:
    with pytest.raises(ValueError, match=r"^ratio: 0\.98 is above max_ratio, 0\.95"):
        ProbabilisticSettings(ratio=0.98)
    with pytest.raises(ValueError, match=r"^ratios\.inner: 0\.7 is above max_ratio, 0\.6"):
        ProbabilisticSettings(ratios={"inner": 0.7}, max_ratio=0.6)
    ProbabilisticSettings(macs=0.5, max_ratio=0.3)
    _, sparsifier = trained(ProbabilisticSettings(largest=0.5, ratio=0.98, max_ratio=0.98), total=60)
    assert all(int(mask.sum()) == 1 for mask in sparsifier.keep_masks().values())
    assert {row["reached"] for row in sparsifier.shares()} == {row["asked"] for row in sparsifier.shares()}


def test_the_schedule_that_is_used_is_told() -> None:
    _, _, plain = begun(ProbabilisticSettings(interval=2, ratio=0.5), 400)
    told = plain.schedule
    assert (told["largest"], told["interval"], told["updates"]) == (0.05, 2, 199)
    assert told["text"].startswith("A 0.05, u 0.25, t 2: 199 updates in 400 steps")
    assert "raised" not in told["text"]
    _, _, raised = begun(ProbabilisticSettings(ratio=0.5), 400)
    told = raised.schedule
    assert told["largest"] > told["asked"] == 0.05
    assert f"largest step raised from 0.05 to {told['largest']:.3g}, since there are only 50 updates" in told["text"]
    assert told["needed"] <= 50
    _, few = trained(ProbabilisticSettings(interval=150, ratio=0.5), total=200)
    told = few.schedule
    number = sum(round(row["channels"] * row["asked"]) for row in few.shares())
    assert told["forced"] == number
    words = f"too few updates: groups still missing at the end go by lowest p; {number} of {number} groups went so"
    assert told["text"].endswith(words)


@pytest.mark.parametrize("final", [True, False])
def test_the_patents_wording_ranks_all_groups_and_lets_them_come_back(final: bool) -> None:
    layer = PrunedLayer("a", 0, 8, 4)
    penalty = make_penalty_function("exponential", 0.6, 0.25)
    participation = Participation([layer], penalty, "all", final)
    participation.update(np.arange(8.0), 1)
    expected = np.clip(1.0 - penalty(np.arange(8), 4), 0.0, 1.0)
    assert np.allclose(participation.p, expected)
    participation.update(np.arange(8.0), 2)
    assert participation.p[0] == 0.0
    assert participation.drawn[0] == (0.0 if final else NEXT_TO_ZERO)
    # The first two groups become the most important ones: by their average ranks they are so after three updates more.
    for number in range(3, 6):
        participation.update(np.array([90.0, 80.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), number)
    assert (participation.p[0] == 0.0) is np.bool_(final)
    for number in range(6, 60):
        participation.update(np.array([90.0, 80.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), number)
    assert participation.done
    assert sorted(set(participation.p)) == [0.0, 1.0]
    assert int((participation.p == 0.0).sum()) == 4
    assert np.array_equal(participation.drawn, participation.p)


def test_ranks_over_all_groups_take_as_long_as_the_slowest_of_them() -> None:
    penalty = make_penalty_function("exponential", 0.05, 0.25)
    assert (updates_needed(512, 256, penalty), updates_needed(512, 256, penalty, "all")) == (150, 4945)
    with pytest.raises(ValueError, match="final: false needs ranks: all"):
        ProbabilisticSettings(final=False)


def test_a_group_that_may_come_back_keeps_its_weights() -> None:
    settings = ProbabilisticSettings(largest=0.9, interval=1, ratio=0.5, ranks="all", final=False)
    model, optimizer, sparsifier = begun(settings, 60)
    for number in range(3):
        step(model, optimizer, sparsifier, number)
    p = sparsifier.state_dict()["p"].numpy()
    assert (p == 0.0).any()
    assert not sparsifier.finished
    found = score(model, sparsifier.channel_groups, "l1")
    scores = np.concatenate([found[group.name] for group in sparsifier.channel_groups.groups])
    assert (scores[p == 0.0] > 0.0).all()


def test_a_share_of_macs_is_kept_and_nearly_used_up() -> None:
    _, sparsifier = trained(ProbabilisticSettings(largest=0.5, macs=0.4), total=60)
    groups = sparsifier.channel_groups
    kept = np.concatenate([sparsifier.keep_masks()[group.name].numpy() for group in groups.groups])
    cost = ChannelCost(mixed(), groups)
    share = cost.of(kept)["macs"] / cost.of(np.ones(groups.width, dtype=bool))["macs"]
    assert 0.33 < share <= 0.4


def test_the_shape_moves_pruning_between_layers() -> None:
    _, _, sparsifier = begun(FAST)
    groups = sparsifier.channel_groups
    allocation = RatioAllocation(mixed(), groups, 0.95)
    even, late, early = (allocation.of_target(0.5, RatioProfile(depth=depth)) for depth in (0.0, 1.0, -1.0))
    assert late[-1] < even[-1] < early[-1]
    assert late[0] > early[0]
    dense = allocation.costs(np.zeros(len(groups.groups), dtype=np.int64))["macs"]
    assert all(allocation.costs(numbers)["macs"] <= 0.5 * dense for numbers in (even, late, early))


def test_what_cannot_be_done_is_said() -> None:
    model = mixed()
    with pytest.raises(UnsupportedModelError, match="out of reach"):
        Probabilistic(ProbabilisticSettings(macs=0.001)).trace(model, INPUTS, call)
    with pytest.raises(UnsupportedModelError, match="nothing of this network is to be pruned"):
        Probabilistic(ProbabilisticSettings(ratio=0.0)).trace(model, INPUTS, call)
    with pytest.raises(UnsupportedModelError, match="no column"):
        Probabilistic(ProbabilisticSettings(ratio=0.0, groups="columns")).trace(model, INPUTS, call)
    with pytest.raises(SecateursError, match="expected trace before start"):
        Probabilistic(FAST).start(model, 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 1.0}, "ratio: expected a share"),
        ({"macs": 0.5, "groups": "columns"}, "macs: columns save no MACs"),
        ({"macs": 0.5, "ratios": {"a": 0.5}}, "ratios: expected none beside macs"),
        ({"largest": 0.0}, "largest: expected a number above 0"),
        ({"share": 0.0}, "share: expected a share of the steps"),
        ({"interval": 0}, "interval: expected at least 1"),
        ({"groups": "input_channels", "importance": "taylor"}, "importance: expected l1 or l2"),
        ({"penalty": "none"}, "penalty: unknown penalty function"),
    ],
)
def test_wrong_settings_say_what_is_right(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        ProbabilisticSettings(**options)
