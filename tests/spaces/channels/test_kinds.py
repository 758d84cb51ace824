"""Layer kinds: the registered ones, and a new one that is a class here and a line in the registry."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluators.cost import count_costs
from spaces.channel_mask import ChannelMask
from spaces.channels.check import find_checked_groups
from spaces.channels.kinds import LAYER_KINDS
from spaces.channels.kinds.tracing import input_atoms, label_output, output_atoms
from spaces.channels.labels.tracker import LabelTracker
from spaces.importance.criterion import score
from spaces.layers.layer_kind import LayerKind, kind_of, layer_kinds
from spaces.layers.shape_inference import layer_shapes
from spaces.layers.shapes import LayerShape
from spaces.quantization.quantizable import find_quantizable
from spaces.sparsifiers.pruned_groups import channel_scores
from spaces.sparsifiers.zeroing import lossless_groups, zero_channels

MODULES = {
    "conv": [nn.Conv1d(1, 2, 1), nn.Conv2d(1, 2, 1), nn.Conv3d(1, 2, 1)],
    "conv_transpose": [nn.ConvTranspose1d(1, 2, 1), nn.ConvTranspose2d(1, 2, 1), nn.ConvTranspose3d(1, 2, 1)],
    "linear": [nn.Linear(1, 2)],
    "norm": [nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.InstanceNorm2d(2)],
    "layer_norm": [nn.LayerNorm(2), nn.RMSNorm(2)],
    "group_norm": [nn.GroupNorm(1, 2)],
    "recurrent": [nn.LSTM(1, 2), nn.GRU(1, 2), nn.RNN(1, 2), nn.LSTMCell(1, 2), nn.GRUCell(1, 2), nn.RNNCell(1, 2)],
    "embedding": [nn.Embedding(4, 2)],
    "attention": [nn.MultiheadAttention(4, 2)],
}


def test_every_kind_is_registered_under_its_name() -> None:
    assert [kind.name for kind in layer_kinds()] == list(LAYER_KINDS)


@pytest.mark.parametrize("name", LAYER_KINDS)
def test_modules_have_their_kind(name: str) -> None:
    found = [kind_of(module) for module in MODULES[name]]
    assert [kind.name for kind in found if kind is not None] == [name] * len(MODULES[name])


def test_modules_without_weights_have_no_kind() -> None:
    assert kind_of(nn.ReLU()) is None
    assert kind_of(nn.Sequential(nn.Linear(1, 1))) is None


class Mixer(nn.Module):
    """Mixes channels by a table of shape ``(in, out)``, of which it reads as many rows as a number of its own says."""

    def __init__(self, reads: int, writes: int) -> None:
        super().__init__()
        self.reads, self.writes = reads, writes
        self.table = nn.Parameter(torch.randn(reads, writes))

    def forward(self, x: Tensor) -> Tensor:
        table = self.table.index_select(0, torch.arange(self.reads))
        return torch.einsum("nihw,io->nohw", x, table)


class MixerKind(LayerKind):
    """All that there is to know of a mixer."""

    name = "mixer"
    modules = (Mixer,)

    def trace(self, tracker: LabelTracker, output: Tensor, inputs: Tensor) -> None:
        table = tracker.stack[-1][1].get_parameter("table")
        atoms = input_atoms(tracker, inputs, table, self.modules, 1)
        if atoms is None:
            return
        outputs = output_atoms(tracker, table, 1, output.shape[1])
        tracker.tie(table, 0, atoms)
        tracker.tie(table, 1, outputs)
        label_output(tracker, output, outputs, 1, "output channel")
        tracker.record(self, atoms, outputs, float(output[0, 0].numel()), 1, -3)

    def sizes(self, inputs: int, outputs: int, groups: int, before: int) -> dict[str, int | tuple[int, ...]]:
        return {"reads": inputs, "writes": outputs}

    def macs(self, module: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any], outputs: Any) -> int:
        return int(outputs.numel() * module.get_parameter("table").shape[0])

    def shape(self, module: nn.Module, inputs: Tensor) -> LayerShape:
        table = module.get_parameter("table")
        return LayerShape("conv", *table.shape, tuple(inputs.shape[2:]), (1, 1), (1, 1), (0,) * 4, (1, 1))

    def writers(self, groups: int) -> tuple[tuple[str, int], ...]:
        return (("table", 1),)

    def readers(self, groups: int) -> tuple[tuple[str, int], ...]:
        return (("table", 0),)

    def filters(self, module: nn.Module, outputs: int, groups: int) -> Tensor:
        return module.get_parameter("table").T


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mixer = Mixer(8, 6)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.mixer(torch.relu(self.stem(x)))))).mean((2, 3))


@pytest.fixture
def mixed() -> Mixed:
    torch.manual_seed(0)
    return Mixed().eval()


INPUTS = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_without_its_line_a_new_kind_of_layer_freezes_its_channels(mixed: Mixed) -> None:
    groups = find_checked_groups(mixed, INPUTS)
    assert [group.name for group in groups.groups] == []
    reason = next(group.reason for group in groups.frozen if group.name == "stem")
    assert "torch.einsum" in reason
    assert "fails once channels are removed" in reason


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYER_KINDS, "mixer", f"{__name__}:MixerKind")


@pytest.mark.usefixtures("registered")
def test_a_new_kind_is_found_cut_masked_checked_and_counted(mixed: Mixed) -> None:
    space = ChannelMask(mixed, INPUTS)
    members = {group.name: group.members for group in space.groups.groups}
    assert members == {"stem": ("stem", "mixer"), "mixer": ("mixer", "norm", "last")}
    rng = np.random.default_rng(0)
    for _ in range(3):
        candidate = space.sample(rng)
        small = space.realize(mixed, candidate)
        assert space.check(mixed, candidate) < 1e-12
        torch.testing.assert_close(small(INPUTS), space.prepare(mixed, candidate)(INPUTS))
        kept = [int(candidate.mask(name).sum()) for name in space.domains]
        assert isinstance(small, Mixed)
        assert [small.mixer.reads, small.mixer.writes] == kept == list(small.mixer.table.shape)
        predicted, counted = space.costs(candidate), count_costs(small, INPUTS)
        assert {name: predicted[name] for name in counted} == counted
    assert count_costs(mixed, INPUTS)["macs"] == 64 * (3 * 8 * 9 + 8 * 6 + 6 * 5)


@pytest.mark.usefixtures("registered")
def test_a_new_kind_is_scored_zeroed_timed_and_left_in_float(mixed: Mixed) -> None:
    groups = ChannelMask(mixed, INPUTS).groups
    torch.testing.assert_close(torch.from_numpy(score(mixed, groups, "l1")["mixer"]).float(), mixed.mixer.table.abs().sum(0))
    torch.testing.assert_close(channel_scores(mixed, groups, 1)[:8].float(), mixed.mixer.table.abs().sum(1))
    lossless = lossless_groups(mixed, groups, INPUTS, lambda model, inputs: model(inputs))
    assert [group.name for group in lossless.groups] == ["stem", "mixer"]
    mask = np.ones(groups.width, dtype=bool)
    mask[8:10] = False
    zeroed = zero_channels(copy.deepcopy(mixed), groups, mask)
    assert not zeroed.mixer.table[:, :2].any()  # type: ignore[union-attr, index]
    assert list(layer_shapes(mixed, INPUTS)) == ["stem", "mixer", "last"]
    reasons = {layer.name: layer.reason for layer in find_quantizable(mixed, INPUTS).frozen}
    assert reasons["mixer"] == "a Mixer is none of the layers that are quantized"
