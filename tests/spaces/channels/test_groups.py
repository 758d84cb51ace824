from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.channels.check import equivalence_error, find_checked_groups, half_mask
from spaces.channels.groups import ChannelGroups, find_groups
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.errors import EquivalenceError, UnsupportedModelError
from spaces.networks import gpt_small, unet_small
from tests.spaces.zoo import ZOO, example, network


def sizes(groups: ChannelGroups) -> dict[str, int]:
    return {group.name: group.size for group in groups.groups}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"first.0": 8, "second.0": 12, "hidden": 20}),
        ("residual", {"stem.0": 8, "inner.0": 6}),
        ("dense", {"first.0": 6, "second.0": 4, "third.0": 4}),
        ("split_shuffle", {"stem.0": 8, "branch.0.0": 8, "last.0": 10}),
        ("squeeze_excite", {"stem.0": 8, "squeeze": 4}),
        ("grouped", {"stem.0": 4, "last": 10}),
        ("transposed", {"down": 8, "up": 12, "skip.0": 6}),
        ("transposed_grouped", {"down": 4, "skip.0": 6}),
        ("layer_normed", {"stem": 8, "wide": 16}),
        ("shared", {"stem.0": 8}),
        ("attention", {"embed": 8, "attention": 2, "attention#2": 4, "wide": 12}),
        ("fixed_split", {"left": 6}),
    ],
)
def test_groups_are_the_coupled_ones(name: str, expected: dict[str, int]) -> None:
    assert sizes(find_checked_groups(network(name), example(name))) == expected


@pytest.mark.parametrize("name", list(ZOO))
def test_sliced_equals_masked_for_random_masks(name: str) -> None:
    model, inputs = network(name), example(name)
    groups = find_checked_groups(model, inputs)
    for seed in range(4):
        assert equivalence_error(model, groups, half_mask(groups, groups.groups, seed), inputs) < 1e-10


@pytest.mark.parametrize("name", list(ZOO))
def test_removed_channels_matter(name: str) -> None:
    """The masked network must differ from the dense one, or the equality above says nothing."""
    model, inputs = network(name), example(name)
    groups = find_checked_groups(model, inputs)
    small = apply_cut(model, plan_cut(groups, half_mask(groups, groups.groups)))
    assert (small(inputs) - model(inputs)).abs().max() > 1e-4
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_a_wrong_cut_is_an_error() -> None:
    model, inputs = network("dense"), example("dense")
    groups = find_checked_groups(model, inputs)
    wrong = {name: dict(dims) for name, dims in groups.ties.items()}
    wrong["third.0.weight"][1] = wrong["third.0.weight"][1][::-1].copy()
    broken = ChannelGroups(groups.groups, groups.frozen, wrong, groups.layers)
    with pytest.raises(EquivalenceError, match="differs from the masked one"):
        equivalence_error(model, broken, half_mask(groups, groups.groups), inputs)


def test_a_group_that_fails_the_check_is_frozen_with_the_reason() -> None:
    class HardCoded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.second = nn.Conv2d(8, 4, 1)
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.head(self.second(x.view(-1, 8, 8, 8)).mean((2, 3)))

    groups = find_checked_groups(HardCoded(), example("plain"))
    assert sizes(groups) == {"second": 4}
    reason = next(group.reason for group in groups.frozen if group.name == "first")
    assert "the network itself: `return self.head(self.second(x.view(-1, 8, 8, 8)).mean((2, 3)))` in test_groups.py:" in reason


def test_frozen_groups_have_named_reasons() -> None:
    class Own(nn.MultiheadAttention):
        """Attention by a class of somebody's own, which may compute anything."""

    model = network("attention")
    model.attention = Own(8, 2, batch_first=True)
    groups = find_groups(model, example("attention"))
    reasons = {group.name: group.reason for group in groups.frozen}
    assert "multi_head_attention_forward" in reasons["embed"]
    assert reasons["head"] == "network output"
    assert "unequal size" in find_groups(network("fixed_split"), example("fixed_split")).frozen[0].reason


def test_a_convolution_as_classifier_is_frozen() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert sizes(find_groups(model, example("plain"))) == {"0": 8}


def test_padded_shortcut_keeps_the_padded_channels() -> None:
    class OptionA(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.conv = nn.Conv2d(4, 8, 3, padding=1)
            self.head = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = self.conv(x) + nn.functional.pad(x, (0, 0, 0, 0, 2, 2))
            return self.head(x.mean((2, 3)))

    groups = find_checked_groups(OptionA(), example("plain"))
    assert sizes(groups) == {"stem": 4}
    frozen = next(group for group in groups.frozen if group.name == "conv")
    assert (frozen.size, "no channel" in frozen.reason) == (4, True)


def test_include_and_exclude_patterns() -> None:
    model, inputs = network("plain"), example("plain")
    assert sizes(find_groups(model, inputs, exclude=["first*"])) == {"second.0": 12, "hidden": 20}
    assert sizes(find_groups(model, inputs, include=["first*", "hid*"])) == {"first.0": 8, "hidden": 20}
    with pytest.raises(UnsupportedModelError, match="matches no layer"):
        find_groups(model, inputs, exclude=["nothing*"])


def test_a_failing_forward_pass_is_a_named_error() -> None:
    with pytest.raises(UnsupportedModelError, match="forward pass failed on an input of shape"):
        find_groups(network("plain"), torch.randn(1, 4, 8, 8))


def test_outputs_without_tensors_are_a_named_error() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x: torch.Tensor) -> object:
            return iter([self.conv(x)])

    with pytest.raises(UnsupportedModelError, match="without a tensor in it"):
        find_checked_groups(Wrapped(), example("plain"))


def test_nothing_prunable_is_an_error() -> None:
    with pytest.raises(UnsupportedModelError, match="nothing in this network can be pruned: network output"):
        ChannelMask(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), example("plain"))


def test_tracing_leaves_the_model_alone() -> None:
    model = network("residual").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    find_checked_groups(model, example("residual"))
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_max_ratio_and_rounding_bound_the_domains() -> None:
    space = ChannelMask(network("plain"), example("plain"), ChannelMaskSettings(round_to=4, max_ratio=0.5))
    assert space.domains["second.0"].legal_counts() == [8, 12]
    assert space.domains["hidden"].legal_counts() == [12, 16, 20]
    sample = space.sample(np.random.default_rng(0))
    space.validate(sample)


class Counting(nn.Module):
    """Divides by the number of channels in one place of two, which no shape tells."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x / x.shape[1]))
        return self.head(self.third(x).mean((2, 3)))


def test_values_that_depend_on_the_number_of_channels_are_blamed_where_they_are_read() -> None:
    runs: list[torch.dtype] = []
    model = Counting().eval()

    def forward(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        runs.append(inputs.dtype)
        return network(inputs)

    groups = find_checked_groups(model, example("plain"), forward=forward)
    assert sizes(groups) == {"second": 6, "third": 4}
    reason = next(group.reason for group in groups.frozen if group.name == "first")
    assert reason.startswith("second: what it reads differs by")
    assert runs.count(torch.float64) <= 6


def test_reasons_name_the_line_in_the_shipped_text_networks() -> None:
    groups = find_groups(gpt_small(blocks=1, width=8, heads=1, length=6), torch.zeros(1, 6, dtype=torch.int64))
    assert any("in text_networks.py:" in group.reason for group in groups.frozen)


def test_reasons_name_the_line_in_the_shipped_dense_networks() -> None:
    groups = find_groups(unet_small(in_channels=1, outputs=1, width=4), torch.zeros(1, 1, 8, 8))
    assert any("in dense_networks.py:" in group.reason for group in groups.frozen)
