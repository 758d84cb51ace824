from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.cost import count_costs
from spaces.candidate import Candidate
from spaces.errors import EquivalenceError, InvalidCandidateError, SecateursError, UnsupportedModelError
from spaces.execution.forward import call
from spaces.filter_ratio import FilterRatio
from spaces.filter_ratio_settings import FilterRatioSettings
from spaces.importance.criterion import Observations, score
from spaces.transformation import apply
from tests.spaces.zoo import ZOO, example, network

GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [(torch.randn(24, 3, 8, 8, generator=GENERATOR), torch.arange(24) % 3) for _ in range(2)]
SEEN = Observations(BATCHES, nn.functional.cross_entropy, lambda targets: targets)


def space_of(name: str = "residual", **options) -> tuple[nn.Module, FilterRatio]:
    model = network(name)
    settings = FilterRatioSettings(**{"importance": "l2", **options})
    shape = (12, *example(name).shape[1:])
    calibration = [torch.randn(shape, generator=torch.Generator().manual_seed(1))]
    space = FilterRatio(model, example(name), settings, batches=calibration)
    space.learn(SEEN)
    return model, space


def costliest(space: FilterRatio) -> Candidate:
    return Candidate({name: levels[-1] for name, levels in space.levels.items()})


def trained(model: nn.Module, space: FilterRatio, candidate: Candidate, steps: int = 12, done: int | None = None) -> nn.Module:
    """Train as the loop does, of ``steps`` only the first ``done``."""
    prepared, sparsifier = space.prepare(model, candidate), space.sparsifier(candidate)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.02, momentum=0.9)
    sparsifier.trace(prepared, BATCHES[0][0][:1], call)
    sparsifier.start(prepared, steps)
    prepared.train()
    for number in range(steps if done is None else done):
        inputs, targets = BATCHES[number % 2]
        sparsifier.before_forward(inputs, targets)
        optimizer.zero_grad()
        nn.functional.cross_entropy(prepared(inputs), targets).backward()
        sparsifier.after_backward()
        optimizer.step()
        sparsifier.after_step()
    sparsifier.finish()
    return prepared.eval()


@pytest.mark.parametrize("method", ["one_shot", "gradient_cut"])
@pytest.mark.parametrize("per", ["layer", "stage", "network"])
def test_a_ratio_is_the_share_of_filters_that_go(method: str, per: str) -> None:
    model, space = space_of("plain", method=method, per=per)
    rng = np.random.default_rng(0)
    for _ in range(3):
        candidate = space.sample(rng)
        prepared = trained(model, space, candidate) if method == "gradient_cut" else space.prepare(model, candidate)
        small = space.convert(prepared)
        named = space.transformation_of(candidate, prepared)["candidate"]
        ratios = dict(candidate.values)
        for group in space.groups.groups:
            ratio = ratios[{"layer": group.name, "stage": group.name.partition(".")[0], "network": "network"}[per]]
            assert named[group.name].count("0") == int(ratio * group.size + 1e-9)
        assert count_costs(small, example("plain"))["macs"] == space.costs(candidate)["macs"]
        assert count_costs(small, example("plain"))["parameters"] == space.costs(candidate)["parameters"]
        rebuilt = apply(network("plain"), space.transformation_of(candidate, prepared))
        rebuilt.load_state_dict(small.state_dict())
        assert space.check_prepared(prepared) < 1e-8


@pytest.mark.parametrize("method", ["one_shot", "gradient_cut"])
def test_kept_filters_come_in_multiples(method: str) -> None:
    model, space = space_of(method=method, round_to=4)
    candidate = space.sample(np.random.default_rng(3))
    prepared = trained(model, space, candidate) if method == "gradient_cut" else space.prepare(model, candidate)
    named = space.transformation_of(candidate, prepared)["candidate"]
    assert any("0" in mask for mask in named.values())
    assert all(mask.count("1") % 4 == 0 or "0" not in mask for mask in named.values())
    assert all(
        len(domain.options) <= group.size / 4 + 1
        for domain, group in zip(space.domains.values(), space.groups.groups, strict=True)
    )
    assert count_costs(space.convert(prepared), example("residual"))["macs"] == space.costs(candidate)["macs"]


def test_the_least_important_filters_go() -> None:
    model, space = space_of(importance="relevance_loss", compensate=False)
    candidate = Candidate(dict.fromkeys(space.domains, 0.5))
    scores = score(model, space.groups, "relevance_loss", SEEN)
    for name, mask in space.transformation(candidate)["candidate"].items():
        kept = np.asarray([bit == "1" for bit in mask])
        assert kept.sum() == len(mask) // 2
        assert scores[name][kept].min() >= scores[name][~kept].max()
    assert space.check(model, candidate) < 1e-8


def test_one_ratio_may_rank_the_whole_network() -> None:
    _, space = space_of("plain", per="network", scope="global", importance="l1")
    named = space.transformation(Candidate({"network": 0.5}))["candidate"]
    shares = {mask.count("0") / len(mask) for mask in named.values()}
    assert len(shares) > 1
    assert sum(mask.count("0") for mask in named.values()) == space.groups.width // 2


@pytest.mark.parametrize("method", ["one_shot", "gradient_cut"])
def test_within_a_budget_ratios_say_how_layers_share_it(method: str) -> None:
    model, space = space_of("plain", macs=0.4, method=method)
    assert space.budgeted
    whole = count_costs(model, example("plain"))["macs"]
    rng = np.random.default_rng(1)
    shares = []
    for candidate in [space.sample(rng) for _ in range(8)] + [space.cheapest(), costliest(space)]:
        share = space.costs(candidate)["macs"] / whole
        assert 0.25 < share <= 0.4
        shares.append(tuple(mask.count("1") for mask in space.transformation(candidate)["candidate"].values()))
    assert len(set(shares)) > 4
    steep = Candidate({"first.0": 0.75, "second.0": 0.0, "hidden": 0.0})
    flat = Candidate({"first.0": 0.0, "second.0": 0.75, "hidden": 0.0})
    kept = [{n: m.count("1") / len(m) for n, m in space.transformation(c)["candidate"].items()} for c in (steep, flat)]
    assert kept[0]["first.0"] < kept[0]["second.0"]
    assert kept[1]["second.0"] < kept[1]["first.0"]
    if method == "gradient_cut":
        prepared = trained(model, space, steep)
        assert count_costs(space.convert(prepared), example("plain"))["macs"] == space.costs(steep)["macs"]


def test_a_training_cut_short_or_never_begun_still_gives_a_network_of_the_ratio() -> None:
    model, space = space_of(method="gradient_cut")
    candidate = Candidate(dict.fromkeys(space.domains, 0.5))
    untrained = space.prepare(model, candidate)
    assert count_costs(space.convert(untrained), example("residual"))["macs"] == space.costs(candidate)["macs"]
    for done in (2, 8):
        prepared = trained(model, space, candidate, done=done)
        small = space.convert(prepared)
        assert count_costs(small, example("residual"))["macs"] == space.costs(candidate)["macs"]
        assert space.check_prepared(prepared) < 1e-8
        torch.testing.assert_close(small(BATCHES[0][0]), prepared(BATCHES[0][0]), rtol=1e-5, atol=1e-5)


def test_a_filter_that_still_has_an_effect_is_not_removed_in_silence() -> None:
    model, space = space_of(method="gradient_cut")
    prepared = trained(model, space, Candidate(dict.fromkeys(space.domains, 0.5)))
    with torch.no_grad():
        prepared.stem[1].bias += 0.1
    with pytest.raises(EquivalenceError, match="should change outputs by less than"):
        space.check_prepared(prepared)


def test_levels_rise_in_cost_and_gains_never_rise() -> None:
    _, space = space_of("plain", levels=10)
    assert set(space.levels) == set(space.domains)
    gains = space.gains()
    for name, levels in space.levels.items():
        assert list(levels) == sorted(levels, reverse=True)
        others = dict(costliest(space).values)
        costs = [space.costs(Candidate(others | {name: level}))["macs"] for level in levels]
        assert costs == sorted(costs)
        assert len(set(costs)) == len(costs)
        assert gains[name].shape == (len(levels),)
        assert (np.diff(gains[name]) <= 1e-12).all()


@pytest.mark.parametrize("name", list(ZOO))
@pytest.mark.parametrize("method", ["one_shot", "gradient_cut"])
def test_every_kind_of_coupling(name: str, method: str) -> None:
    model, space = space_of(name, method=method)
    candidate = space.sample(np.random.default_rng(2))
    prepared = space.prepare(model, candidate)
    if method == "one_shot":
        assert space.check_prepared(prepared) < 1e-6
    small = space.convert(prepared)
    assert count_costs(small, example(name))["parameters"] == space.costs(candidate)["parameters"]


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="out of reach"):
        space_of("plain", macs=0.001, max_ratio=0.5)
    with pytest.raises(UnsupportedModelError, match="nothing in this network can be pruned"):
        space_of(exclude=("*",))
    model = network("residual")
    unlearnt = FilterRatio(model, example("residual"), FilterRatioSettings())
    with pytest.raises(SecateursError, match="expected `learn` before"):
        unlearnt.realize(model, unlearnt.sample(np.random.default_rng(0)))
    _, space = space_of()
    with pytest.raises(InvalidCandidateError):
        space.costs(Candidate(dict.fromkeys(space.domains, 2.0)))


@pytest.mark.parametrize(
    "options",
    [
        {"levels": 1},
        {"scope": "global"},
        {"scope": "global", "per": "network", "macs": 0.5},
        {"macs": 0.5, "per": "network"},
        {"macs": 1.5},
        {"max_ratio": 0.0},
        {"round_to": 0},
        {"freeze": 0.9, "decay": 0.5},
    ],
)
def test_wrong_settings_are_refused(options) -> None:
    with pytest.raises(ValueError, match="expected|must|only|nothing"):
        FilterRatioSettings(**options)
