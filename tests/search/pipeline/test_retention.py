"""What a pruned network keeps of the reference's task relevance."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from evaluators.tasks.classification import Classification
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.observations import observations
from evaluators.tasks.small_images import Digits, DigitsSettings
from search.pipeline.retention import SAMPLES, Retention
from search.run.network import Network
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.channels.groups import find_groups
from spaces.channels.subset import kept_channels, subset
from spaces.channels.surgery import Cut, apply_cut, plan_cut
from spaces.importance.criterion import score
from tests.spaces.zoo import ZOO, example, network

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task() -> Classification:
    return Classification(
        ModelSettings("spaces.networks.digits_cnn", {"width": 6}), Digits(DigitsSettings(search_size=64, train_size=256))
    )


def sliced(reference: Network, task: Classification, seed: int) -> Network:
    space = ChannelMask(reference.model, task.example_inputs(), ChannelMaskSettings(compensate=False))
    candidate = space.sample(np.random.default_rng(seed))
    return Network(space.realize(reference.model, candidate), (*reference.transformations, space.transformation(candidate)))


@pytest.mark.parametrize("name", list(ZOO))
def test_the_groups_of_a_slice_are_the_rest_of_the_groups(name: str) -> None:
    model = network(name)
    groups = find_groups(model, example(name))
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(2):
        mask = rng.random(groups.width) < 0.6
        for group in groups.groups:
            mask[group.offset + rng.integers(group.size)] = True
        masks.append(mask)
    once = plan_cut(groups, masks[0])
    assert (kept_channels(groups, [Cut.from_json(once.to_json())]) == masks[0]).all()
    assert kept_channels(groups, []).all()
    rest = subset(groups, masks[0])
    small = apply_cut(model, once)
    assert rest.width == masks[0].sum()
    for tensor, dims in rest.ties.items():
        for dim, places in dims.items():
            assert len(places) == small.get_parameter(tensor).shape[dim] if "running" not in tensor else True
    again = masks[1][masks[0]]
    for group in rest.groups:
        again[group.offset] = True
    both = kept_channels(groups, [once, plan_cut(rest, again)])
    assert (both[masks[0]] == again).all()
    assert not both[~masks[0]].any()
    twice = apply_cut(small, plan_cut(rest, again))
    joined = apply_cut(model, plan_cut(groups, both))
    assert all(torch.equal(one, other) for one, other in zip(twice.parameters(), joined.parameters(), strict=True))


def test_shares_are_those_of_the_relevance(task: Classification) -> None:
    reference = Network(task.reference_model().eval())
    small = sliced(reference, task, 1)
    with torch.no_grad():
        for parameter in small.model.parameters():
            parameter += 0.05
    found = Retention(reference, task, CPU).of(small)
    assert found is not None
    groups = find_groups(reference.model, task.example_inputs())
    seen = observations(task, CPU, limit=SAMPLES)
    before = score(reference.model, groups, "task_relevance", seen)
    masks = small.transformations[-1]["candidate"]
    own = find_groups(small.model, task.example_inputs())
    after = score(small.model, own, "task_relevance", observations(task, CPU, limit=SAMPLES))
    assert [layer["name"] for layer in found["layers"]] == [group.name for group in groups.groups]
    for layer in found["layers"]:
        kept = np.asarray([bit == "1" for bit in masks[layer["name"]]])
        assert (layer["channels"], layer["kept"]) == (len(kept), kept.sum())
        assert layer["chosen"] == pytest.approx(before[layer["name"]][kept].sum() / before[layer["name"]].sum())
        if layer["name"] in after:
            expected = after[layer["name"]].sum() / before[layer["name"]].sum()
            assert layer["retained"] == pytest.approx(expected, rel=1e-6)


def test_a_slice_within_a_sequence_is_seen(task: Classification) -> None:
    reference = Network(task.reference_model().eval())
    first = sliced(reference, task, 2)
    second = sliced(first, task, 3)
    # As the joint space records it, and behind a stage that has removed channels by itself.
    wrapped = {"kind": "sequence", "steps": [second.transformations[-1]]}
    joint = Network(second.model, (*first.transformations, wrapped))
    retention = Retention(reference, task, CPU)
    assert retention.of(joint) == retention.of(second) is not None


def test_a_slice_of_a_slice_is_measured_against_the_first(task: Classification) -> None:
    reference = Network(task.reference_model().eval())
    first = sliced(reference, task, 2)
    second = sliced(first, task, 3)
    found = Retention(reference, task, CPU).of(second)
    assert found is not None
    widths = [m.out_channels for m in second.model.modules() if isinstance(m, nn.Conv2d)]
    assert found["layers"][0]["kept"] == widths[0]
    later = Retention(first, task, CPU).of(second)
    assert later is not None
    assert later["layers"][0]["channels"] == found["layers"][0]["channels"] - (
        reference.model.features[0].out_channels - first.model.features[0].out_channels
    )


def test_without_removal_or_without_labels_there_is_nothing_to_say(
    task: Classification, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Network(task.reference_model().eval())
    assert Retention(reference, task, CPU).of(Network(copy.deepcopy(reference.model))) is None
    monkeypatch.setattr(task, "labels", lambda targets: None)
    assert Retention(reference, task, CPU).of(sliced(reference, task, 1)) is None


def test_the_test_split_is_not_read(task: Classification, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Network(task.reference_model().eval())
    batches, read = task.batches, set()

    def watched(split, *arguments, **options):
        read.add(split)
        return batches(split, *arguments, **options)

    monkeypatch.setattr(task, "batches", watched)
    assert Retention(reference, task, CPU).of(sliced(reference, task, 1)) is not None
    assert read == {"train"}
