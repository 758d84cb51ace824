"""Recurrent layers: hidden units are found, cut, masked and counted, whatever code does with outputs and states."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from evaluators.cost import count_costs
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.channels.check import equivalence_error, find_checked_groups, half_mask
from spaces.channels.masking import masked_copy, unmasked
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.cloning.clone import clone
from spaces.importance.criterion import score
from spaces.sparsifiers.pruned_groups import channel_scores
from spaces.sparsifiers.zeroing import largest_weights, zero_channels
from spaces.transformation import apply
from tests.spaces.channels.test_macs import counted

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
STEPS = torch.randn(1, 7, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A convolution, a recurrent layer of 10 units over its places, and a classifier of what ``read`` makes of the layer."""

    def __init__(self, layer: nn.Module, width: int, read: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.layer, self.head = nn.Conv1d(6, 8, 3, padding=1), layer, nn.Linear(width, 3)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.layer, self.conv(x.transpose(1, 2)).relu().transpose(1, 2)))


def last(layer: Any, x: Tensor) -> Tensor:
    return layer(x)[0][:, -1]


def last_first(layer: Any, x: Tensor) -> Tensor:
    return layer(x.transpose(0, 1))[0][-1]


def ended(layer: Any, x: Tensor) -> Tensor:
    return layer(x)[1].transpose(0, 1).flatten(1)


def both_ended(layer: Any, x: Tensor) -> Tensor:
    hidden, cell = layer(input=x)[1]
    return torch.cat([hidden[-1], cell[0]], 1)


def given(layer: Any, x: Tensor) -> Tensor:
    start = torch.ones(layer.num_layers * (1 + layer.bidirectional), len(x), layer.hidden_size, dtype=x.dtype, device=x.device)
    hx = (start, start.clone()) if isinstance(layer, nn.LSTM) else start
    return layer(x, hx)[0].mean(1)


def packed(layer: Any, x: Tensor) -> Tensor:
    steps = pack_padded_sequence(x, torch.tensor([5]), batch_first=True)
    output, _ = layer(steps)
    padded, lengths = pad_packed_sequence(output, batch_first=True, total_length=7)
    return padded[torch.arange(len(x)), lengths - 1]


def unsorted_ends(layer: Any, x: Tensor) -> Tensor:
    steps = pack_padded_sequence(x, torch.tensor([5]), batch_first=True, enforce_sorted=False)
    return layer(steps)[1][0][-1]


def gathered(layer: Any, x: Tensor) -> Tensor:
    output, _ = layer(x)
    ends = torch.full((len(x), 1, 1), 4, device=x.device).expand(-1, -1, output.shape[2])
    return output.gather(1, ends).squeeze(1)


def cells(layer: Any, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = layer(step, state)
    return state if isinstance(state, Tensor) else torch.cat(state, 1)


def started_cells(layer: Any, x: Tensor) -> Tensor:
    hidden = cell = x.new_zeros(len(x), layer.hidden_size)
    for step in x.unbind(1):
        hidden, cell = layer(step, (hidden, cell))
    return hidden


def lstm(**options: Any) -> nn.Module:
    return nn.LSTM(8, 10, **{"batch_first": True, **options})


NETWORKS: dict[str, Callable[[], Net]] = {
    "lstm": lambda: Net(lstm(), 10, last),
    "lstm in time first": lambda: Net(lstm(batch_first=False), 10, last_first),
    "lstm of three layers, no bias": lambda: Net(lstm(num_layers=3, bias=False), 20, both_ended),
    "lstm both ways": lambda: Net(lstm(bidirectional=True), 20, last),
    "lstm both ways, two layers, given": lambda: Net(lstm(bidirectional=True, num_layers=2), 20, given),
    "lstm projected": lambda: Net(lstm(proj_size=4), 4, last),
    "lstm projected, both ways, two layers": lambda: Net(lstm(proj_size=4, num_layers=2, bidirectional=True), 14, both_ended),
    "lstm packed": lambda: Net(lstm(bidirectional=True), 20, packed),
    "lstm packed in any order": lambda: Net(lstm(), 10, unsorted_ends),
    "lstm gathered": lambda: Net(lstm(), 10, gathered),
    "gru": lambda: Net(nn.GRU(8, 10, batch_first=True), 10, last),
    "gru both ways, two layers": lambda: Net(nn.GRU(8, 10, 2, batch_first=True, bidirectional=True), 40, ended),
    "gru given": lambda: Net(nn.GRU(8, 10, batch_first=True), 10, given),
    "rnn": lambda: Net(nn.RNN(8, 10, batch_first=True), 10, ended),
    "rnn with relu, two layers, given": lambda: Net(nn.RNN(8, 10, 2, nonlinearity="relu", batch_first=True), 10, given),
    "lstm cell": lambda: Net(nn.LSTMCell(8, 10), 20, cells),
    "lstm cell started": lambda: Net(nn.LSTMCell(8, 10), 10, started_cells),
    "gru cell": lambda: Net(nn.GRUCell(8, 10), 10, cells),
    "rnn cell": lambda: Net(nn.RNNCell(8, 10, bias=False), 10, cells),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_sliced_equals_masked_and_predicted_costs_are_counted(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    space = ChannelMask(model, STEPS, ChannelMaskSettings(compensate=False))
    assert sum(group.size for group in space.groups.groups) == 18 - ("projected" in name), space.groups.frozen
    rng = np.random.default_rng(0)
    for candidate in (space.cheapest(), space.sample(rng), space.sample(rng)):
        mask = space.groups.mask(candidate)
        assert equivalence_error(model, space.groups, mask, STEPS) < 1e-12
        small = space.realize(model, candidate).eval()
        costs, found = space.costs(candidate), count_costs(small, STEPS)
        assert {metric: costs[metric] for metric in found} == found
        assert costs["macs"] == (found["macs"] if "packed" in name else counted(small, STEPS))
        layer: Any = small.get_submodule("layer")
        weight = next(layer.parameters())
        assert layer.input_size == small.get_submodule("conv").out_channels == weight.shape[1]
        assert weight.shape[0] % layer.hidden_size == 0
        assert layer.hidden_size < 10
        rebuilt = apply(copy.deepcopy(model), space.transformation(candidate))
        rebuilt.load_state_dict(small.state_dict())
        for other in (rebuilt, copy.deepcopy(small), clone(small)):
            torch.testing.assert_close(other.eval()(STEPS), small(STEPS))


@pytest.mark.parametrize("name", ["lstm both ways, two layers, given", "gru", "lstm projected", "lstm cell"])
def test_a_masked_layer_trains_as_the_sliced_one(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    groups = find_checked_groups(model, STEPS.double())
    mask = half_mask(groups, groups.groups)
    masked, sliced = masked_copy(model, groups, mask), apply_cut(model, plan_cut(groups, mask))
    names = [key for key, _ in masked.named_parameters()]
    for network in (masked, sliced):
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            network(STEPS.double()).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(masked(STEPS.double()), sliced(STEPS.double()))
    assert [key for key, _ in masked.named_parameters()] == names == [key for key, _ in model.named_parameters()]
    trained = apply_cut(unmasked(masked), plan_cut(groups, mask))
    for key, tensor in trained.state_dict().items():
        torch.testing.assert_close(tensor, sliced.state_dict()[key])
    copy.deepcopy(masked)


class Tutorial(nn.Module):
    """A layer that is started from zeros of a size that the network's own attribute has."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_size, self.num_layers = 12, 2
        self.lstm, self.fc = nn.LSTM(6, 12, 2, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size, dtype=x.dtype).to(x.device)
        c0 = torch.zeros(self.num_layers, x.size(0), self.hidden_size, dtype=x.dtype)
        out, _ = self.lstm(x, (h0, c0))
        return self.fc(out[:, -1, :])


class Learned(nn.Module):
    """A layer that starts from a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(2, 1, 12))
        self.gru, self.fc = nn.GRU(6, 12, 2, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gru(x, self.start)[0][:, -1])


class Translator(nn.Module):
    """An encoder whose last states start a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.encoder, self.decoder = nn.LSTM(6, 12, batch_first=True), nn.LSTM(6, 12, batch_first=True)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 9)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(self.norm(self.decoder(x, self.encoder(x)[1])[0]))


IDS = torch.tensor([[1, 4, 2, 8, 0]])
WHOLE = {"tutorial": (Tutorial, STEPS, [12]), "learned": (Learned, STEPS, [12]), "translator": (Translator, IDS, [6, 12])}


@pytest.mark.parametrize("name", WHOLE)
def test_states_follow_the_units(name: str) -> None:
    factory, inputs, sizes = WHOLE[name]
    torch.manual_seed(0)
    model = factory().eval()
    groups = find_checked_groups(model, inputs)
    assert [group.size for group in groups.groups] == sizes, groups.frozen
    mask = half_mask(groups, groups.groups)
    assert equivalence_error(model, groups, mask, inputs) < 1e-12
    small = apply_cut(model, plan_cut(groups, mask))
    assert name == "learned" or len(small(torch.cat([inputs, inputs]))) == 2


class Own(nn.LSTM):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0][..., :4]


def test_a_layer_with_a_forward_of_its_own_and_a_state_from_outside_stay_with_a_reason() -> None:
    groups = find_checked_groups(nn.Sequential(nn.Linear(6, 8), Own(8, 10), nn.Linear(4, 8), nn.Linear(8, 3)), STEPS)
    assert [group.name for group in groups.groups] == ["2"]
    assert "the forward function of a Own is not handled" in groups.frozen[0].reason

    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.GRU(6, 7, batch_first=True), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x, torch.cat([x[:, 0], x[:, 1, :1]], 1)[None])[0])

    groups = find_checked_groups(nn.Sequential(nn.Linear(6, 6), Started(), nn.Linear(3, 8), nn.Linear(8, 2)), STEPS)
    assert "1.layer" not in {group.name for group in groups.groups}


def test_criteria_score_and_zero_the_units() -> None:
    torch.manual_seed(0)
    model = NETWORKS["lstm both ways"]().eval()
    groups = find_checked_groups(model, STEPS)
    [units] = [group for group in groups.groups if group.name == "layer"]
    weights = [tensor for key, tensor in model.layer.named_parameters() if "weight" in key]
    rows = [weight.detach().reshape(4, 10, -1).transpose(0, 1).flatten(1).abs().sum(1) for weight in weights]
    expected = (rows[0] + rows[2] + rows[1] + rows[3]) / 2
    found = torch.from_numpy(score(model, groups, "l1")["layer"])
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
    assert bool((channel_scores(model, groups, 2) > 0).all())
    mask = half_mask(groups, groups.groups)
    zeroed = zero_channels(clone(model), groups, mask)
    output = zeroed.layer(torch.randn(1, 5, 8))[0]
    gone = ~mask[units.offset : units.offset + 10]
    assert bool((output[..., np.concatenate([gone, gone])] == 0).all())
    assert bool((output[..., ~np.concatenate([gone, gone])] != 0).all())
    assert bool(((largest_weights(zeroed, groups) == 0) == torch.from_numpy(~mask)).all())
