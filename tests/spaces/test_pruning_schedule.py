"""The space of pruning schedules: costs known beforehand, and networks whose channels the training has chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluators.cost import count_costs, count_peak_activation_bytes
from spaces.candidate import Candidate
from spaces.domains import Choice, Real
from spaces.errors import InvalidCandidateError, UnsupportedModelError
from spaces.execution.forward import call
from spaces.pruning_schedule import PAPER, PruningSchedule, PruningScheduleSettings
from spaces.transformation import apply
from tests.spaces.sparsifiers.test_gradient_cut import INPUTS, mixed
from tests.spaces.sparsifiers.test_probabilistic import step


@pytest.fixture(scope="module")
def space():
    return PruningSchedule(mixed().eval(), INPUTS, PruningScheduleSettings(macs=(0.5,), largest=(0.5, 1.0)))


def trained(space, candidate, total=80):
    prepared = space.prepare(mixed().eval(), candidate)
    sparsifier = space.sparsifier(candidate)
    sparsifier.trace(prepared, INPUTS, call)
    sparsifier.start(prepared, total)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.02, momentum=0.9)
    sparsifier.bind(optimizer)
    prepared.train()
    for number in range(total):
        step(prepared, optimizer, sparsifier, number)
    sparsifier.finish()
    return prepared.eval(), sparsifier


def counted(network):
    return {**count_costs(network, INPUTS), "peak_activation_bytes": count_peak_activation_bytes(network, INPUTS)}


def test_every_candidate_costs_what_is_known_before_it_is_trained(space):
    rng = np.random.default_rng(0)
    dense = count_costs(mixed().eval(), INPUTS)
    for _ in range(20):
        candidate = space.sample(rng)
        space.validate(candidate)
        assert 0.4 * dense["macs"] < space.costs(candidate)["macs"] <= 0.5 * dense["macs"]
    prepared, _ = trained(space, candidate)
    small = space.convert(prepared)
    assert space.costs(candidate) == counted(small)


def test_a_trained_network_is_rebuilt_from_its_transformation(space):
    candidate = space.starting_points()[0]
    prepared, sparsifier = trained(space, candidate)
    assert space.check_prepared(prepared) < 1e-9
    small = space.convert(prepared)
    assert "channel_keep_mask" not in dict(small.named_buffers())
    transformation = space.transformation_of(candidate, prepared)
    masks = sparsifier.keep_masks()
    assert transformation["candidate"] == {n: "".join("1" if bit else "0" for bit in mask) for n, mask in masks.items()}
    rebuilt = apply(mixed(), transformation)
    rebuilt.load_state_dict(small.state_dict())
    assert torch.equal(rebuilt.eval()(INPUTS), small(INPUTS))
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    # Before training the structure is known already.
    assert {n: t.shape for n, t in apply(mixed(), space.transformation(candidate)).state_dict().items()} == shapes


def test_without_training_the_lowest_norms_go(space):
    candidate = space.starting_points()[0]
    small = space.realize(mixed().eval(), candidate)
    assert space.costs(candidate) == counted(small)


def test_the_papers_constants_come_first_as_far_as_they_are_open():
    model = mixed().eval()
    start, ours = PruningSchedule(model, INPUTS).starting_points()
    assert dict(ours.values) == {**start.values, "draw": "group"}
    assert {name: PAPER[name] for name in start.values} == dict(start.values)
    settings = PruningScheduleSettings(
        largest=(0.1, 0.2), flatness=(0.25,), importance=("l2",), groups=("input_channels", "filters")
    )
    space = PruningSchedule(model, INPUTS, settings)
    start, _ = space.starting_points()
    assert start.values["largest"] == 0.1
    assert "flatness" not in start.values
    assert "importance" not in start.values
    assert space.schedule(start).importance == "l2"
    space.validate(start)


def test_decisions_are_a_few_numbers_and_options(space):
    kinds = {name: type(domain) for name, domain in space.domains.items()}
    assert kinds == {
        **dict.fromkeys(("largest", "flatness", "share", "depth", "width", "cost"), Real),
        **dict.fromkeys(("importance", "groups", "draw"), Choice),
    }
    front = PruningSchedule(mixed().eval(), INPUTS, PruningScheduleSettings(macs=(0.3, 0.7)))
    assert isinstance(front.domains["macs"], Real)
    cheapest = front.costs(front.cheapest())["macs"] / count_costs(mixed().eval(), INPUTS)["macs"]
    assert 0.2 < cheapest <= 0.3


def test_input_channels_are_ranked_by_a_norm(space):
    start = space.starting_points()[0]
    chosen = Candidate({**start.values, "groups": "input_channels", "importance": "taylor"})
    assert space.schedule(chosen).importance == "l1"


def test_an_impossible_schedule_is_refused_at_once(space):
    with pytest.raises(UnsupportedModelError, match="out of reach"):
        PruningSchedule(mixed().eval(), INPUTS, PruningScheduleSettings(macs=(0.001,)))
    with pytest.raises(UnsupportedModelError, match="nothing in this network can be pruned: excluded"):
        PruningSchedule(mixed().eval(), INPUTS, PruningScheduleSettings(exclude=("*",)))
    with pytest.raises(InvalidCandidateError):
        space.costs(Candidate({"largest": 0.5}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"macs": (0.5, 0.4)}, "macs: expected one number, or a range of two rising"),
        ({"macs": (1.0,)}, "macs: expected numbers between"),
        ({"share": (0.0, 0.5)}, "share: expected numbers between"),
        ({"depth": (-4.0, 0.0)}, "depth: expected numbers between"),
        ({"draw": ()}, "draw: expected options"),
        ({"max_ratio": 0.0}, "max_ratio must lie"),
    ],
)
def test_wrong_settings_say_what_is_right(options, words):
    with pytest.raises(ValueError, match=words):
        PruningScheduleSettings(**options)
