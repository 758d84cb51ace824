"""Heads of ``nn.MultiheadAttention``, by itself and in the layers of PyTorch that run it as one operator."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluators.cost import count_costs
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.depth import Depth
from spaces.layers.split_attention import SplitAttention
from spaces.reconstruction.dense import DenseOutputs
from spaces.reconstruction.kept import kept_outputs
from spaces.reconstruction.reconstruct import Reconstruction
from spaces.transformation import apply

WIDTH, HEADS, LENGTH = 24, 4, 6
X = torch.randn(1, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
PADDING = torch.tensor([[False] * 4 + [True] * 2])
FREE = ChannelMaskSettings(compensate=False, max_ratio=1.0)


class Net(nn.Module):
    """Queries, keys and values by layers of their own, attention, and an addition."""

    def __init__(self, average: bool | None = None, **options: Any) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, options.get("kdim", WIDTH))
        self.places = nn.Parameter(torch.randn(1, LENGTH, self.key.out_features))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, **options)
        self.leave, self.read = nn.Linear(WIDTH, 3), nn.Linear(LENGTH, 2)
        self.average = average

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        q, v = self.query(x), self.key(x)
        k = v + self.places
        given = [q, k, v] if self.attention.batch_first else [one.transpose(0, 1) for one in (q, k, v)]
        mixed, weights = self.attention(*given, average_attn_weights=self.average is not False)
        outputs = self.leave(q + (mixed if self.attention.batch_first else mixed.transpose(0, 1)))
        return (outputs,) if self.average is None else (outputs, self.read(weights.square()).mean((-1, -2)))


class Encoder(nn.Module):
    """A stack of encoder layers between two linear layers."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True, **options)
        self.enter, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=not options)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.leave(self.encoder(self.enter(x), src_key_padding_mask=padding)).mean(1)


class Whole(nn.Module):
    """Encoder and decoder between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.whole = nn.Transformer(WIDTH, HEADS, 1, 1, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        mask = nn.Transformer.generate_square_subsequent_mask(4)
        return self.leave(self.whole(x, x[:, :4], tgt_mask=mask, tgt_is_causal=True))


def made(kind: type[nn.Module], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return kind(**options).eval()


@pytest.mark.parametrize(
    ("kind", "options", "inputs", "expected"),
    [
        (Net, {}, X, {"heads": 1, "qk_width": 1, "channels": 1}),
        (Net, {"batch_first": True, "bias": False}, X, {"heads": 1, "qk_width": 1, "channels": 1}),
        (Net, {"batch_first": True, "add_bias_kv": True, "add_zero_attn": True}, X, {"heads": 1, "qk_width": 1, "channels": 1}),
        (Net, {"kdim": 10, "vdim": 10}, X, {"heads": 1, "qk_width": 1, "channels": 2}),
        (Net, {"average": True}, X, {"heads": 1, "qk_width": 1, "channels": 2}),
        (Encoder, {}, X, {"heads": 2, "qk_width": 2, "channels": 3}),
        (Encoder, {}, (X, PADDING), {"heads": 2, "qk_width": 2, "channels": 3}),
        (Encoder, {"norm_first": True}, X, {"heads": 2, "qk_width": 2, "channels": 3}),
        (Whole, {}, X, {"heads": 3, "qk_width": 3, "channels": 3}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*nested tensor.*:UserWarning")
def test_heads_and_widths_are_open(
    kind: type[nn.Module], options: dict[str, Any], inputs: Any, expected: dict[str, int]
) -> None:
    model = made(kind, **options)
    space = ChannelMask(model, inputs, FREE)
    assert Counter(group.unit for group in space.groups.groups) == expected
    rng = np.random.default_rng(0)
    for candidate in (space.sample(rng), space.cheapest()):
        assert space.check(model, candidate) < 1e-12
        counted, told = count_costs(space.realize(model, candidate), inputs), space.costs(candidate)
        assert (told["macs"], told["parameters"]) == (counted["macs"], counted["parameters"])
    with torch.no_grad():
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        whole, dense = space.realize(model, all_kept(space))(*given), model(*given)
        for own, other in zip(*(one if isinstance(one, tuple) else (one,) for one in (whole, dense)), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def all_kept(space: ChannelMask) -> Candidate:
    return Candidate({name: "1" * one.length for name, one in space.domains.items()})


def half_kept(space: ChannelMask) -> Candidate:
    return Candidate({name: "10" * (one.length // 2) for name, one in space.domains.items()})


def test_heads_stay_where_the_weights_of_each_are_given_back() -> None:
    model = made(Net, average=False)
    space = ChannelMask(model, X, FREE)
    assert [group.unit for group in space.groups.groups] == ["channels", "qk_width"]
    assert {group.unit: group.reason for group in space.groups.frozen}["heads"] == "network output"


def test_rows_that_code_picks_by_numbers_stay() -> None:
    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(WIDTH, 8), nn.Linear(10, 2)
            self.weight = nn.Parameter(torch.randn(20, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            return self.leave(torch.relu(nn.functional.linear(x, self.weight[:10]) + nn.functional.linear(x, self.weight[10:])))

    model = made(Picked)
    space = ChannelMask(model, X, FREE)
    assert [group.name for group in space.groups.groups] == ["enter"]
    assert space.check(model, space.cheapest()) < 1e-12


def test_the_smaller_network_is_saved_exported_trained_and_cut_again() -> None:
    model = made(Encoder)
    space = ChannelMask(model, X, FREE)
    small = space.realize(model, half_kept(space)).eval()
    attention = small.get_submodule("encoder.layers.1.self_attn")
    assert isinstance(attention, SplitAttention)
    assert (attention.num_heads, attention.head_dim, attention.embed_dim) == (2, WIDTH // HEADS // 2, WIDTH // 2)
    assert attention.in_proj_weight.shape == (3 * WIDTH // 4, WIDTH // 2)
    with torch.no_grad():
        outputs = small(X)
    rebuilt = apply(made(Encoder), json.loads(json.dumps(space.transformation(half_kept(space)))))
    rebuilt.load_state_dict(small.state_dict())
    exported = torch.export.export(small, (X,)).module()
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(X), outputs)
        assert torch.allclose(exported(X), outputs, atol=1e-6)
    small.train()(X).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())
    again = ChannelMask(small.eval(), X, FREE)
    assert [group.size for group in again.groups.groups if group.unit == "heads"] == [2, 2]
    assert again.check(small, again.cheapest()) < 1e-12


def test_output_projections_are_compensated_and_solved() -> None:
    model = made(Encoder)
    inputs = torch.randn(16, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
    space = ChannelMask(model, X, ChannelMaskSettings(), batches=[inputs])
    plan = plan_cut(space.groups, space.groups.mask(half_kept(space)))
    plain, solved = apply_cut(model, plan), apply_cut(model, plan).eval()
    outputs = DenseOutputs(model, [inputs])
    assert "encoder.layers.0.self_attn.out_proj" in {weight.name for weight in outputs.weights(solved)}
    for _ in Reconstruction(outputs, solved, kept_outputs(model, [plan])).solve():
        pass
    with torch.no_grad():
        told = model(inputs)
        errors = [
            float((small.eval()(inputs) - told).square().mean())
            for small in (plain, space.realize(model, half_kept(space)), solved)
        ]
    assert errors[2] < errors[1] < errors[0]


def test_every_layer_of_a_stack_may_leave() -> None:
    model = made(Encoder)
    space = Depth(model, (X, PADDING))
    assert len(space.domains) == 4
    assert space.check(model, space.cheapest()) < 1e-12
    small, last = space.realize(model, space.cheapest()), Candidate(dict.fromkeys(space.domains, 1))
    with torch.no_grad():
        assert small(X, PADDING).shape == (1, 3)
        torch.testing.assert_close(space.realize(model, last)(X, PADDING), model(X, PADDING))
