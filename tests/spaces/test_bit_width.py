"""The space of bits: what is found in a network, what it costs, and what becomes of it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.cost import count_costs
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask
from spaces.errors import InvalidCandidateError, SecateursError, UnsupportedModelError
from spaces.fusion.modules import fuse_activations
from spaces.quantization.cost import average_weight_bits
from spaces.quantization.fake_quantize import Quantizer
from spaces.quantization.layers import quantized_layers
from spaces.quantization.record import PACK, is_quantized, pack_weights
from spaces.transformation import apply
from tests.spaces.zoo import Residual


class Mixed(nn.Module):
    """Convolutions of all kinds, a residual addition, a shared weight and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Hardswish())
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x += self.inner(x)
        x = self.up(x).flatten(2).transpose(1, 2)
        x = torch.cat([x, self.attention(x, x, x)[0]], 1).std(1)
        return self.head(torch.stack([self.second(F.relu(self.first(x))), 3 * x]).sum(0))


def trained(model: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics as a training leaves them."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.3, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator=generator)
            nn.init.uniform_(module.weight, -1.0, 1.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained(Mixed())


INPUTS = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def space_of(model: nn.Module, **settings: Any) -> BitWidth:
    return BitWidth(model, INPUTS[:1], BitWidthSettings(**settings), batches=[INPUTS])


@pytest.fixture(scope="module")
def space(model: nn.Module) -> BitWidth:
    return space_of(model)


def test_every_layer_and_addition_has_its_decisions_and_the_rest_a_reason(model: nn.Module, space: BitWidth) -> None:
    layers = ["stem.0", "inner.0", "up", "head"]
    decisions = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "activation")]
    assert list(space.domains) == [*decisions, "add.activation"]
    assert [space.domains[name].options for name in ("stem.0.weight", "head.activation")] == [(8,), (8,)]
    reasons = {entry.name: entry.reason for entry in space.frozen}
    assert set(reasons) == {"attention", "attention.out_proj", "first", "second"}
    assert "one function" in reasons["attention"]
    assert "NonDynamicallyQuantizableLinear" in reasons["attention.out_proj"]
    assert "shares its weight" in reasons["first"]
    prepared = space.prepare(model, space.uniform(4, 8))
    for point in space.quantizers:
        quantizer = prepared.get_submodule(point.path)
        assert isinstance(quantizer, Quantizer)
        assert quantizer.bits == space.uniform(4, 8).values[point.decision]
    assert next(point.elements for point in space.quantizers if point.layer == "add") == 2 * 8 * 36


def test_many_bits_change_little_and_fewer_bits_more(model: nn.Module, space: BitWidth) -> None:
    errors = []
    with torch.no_grad():
        expected = model(INPUTS)
        for bits in (8, 4, 2):
            found = space.prepare(model, space.uniform(bits, 8)).eval()(INPUTS)
            errors += [float((found - expected).abs().mean())]
    assert errors[0] < 0.02 * float(expected.std())
    assert errors[0] < errors[1] < errors[2]


def test_costs_are_those_of_the_network_and_of_its_file(model: nn.Module, space: BitWidth) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        candidate = space.sample(rng)
        prepared = space.prepare(model, candidate)
        stored = pack_weights(prepared)
        costs = space.costs(candidate)
        assert average_weight_bits(prepared) == average_weight_bits(stored) == costs.pop("weight_bits")
        assert count_costs(space.realize(model, candidate), INPUTS[:1]) == costs
        assert count_costs(stored, INPUTS[:1]) == costs
        assert sum(t.numel() * t.element_size() for t in stored.state_dict().values()) == costs["size_bytes"]
    assert count_costs(model, INPUTS[:1])["macs"] == costs["macs"]


def test_bit_operations_are_macs_times_bits(model: nn.Module) -> None:
    found = space_of(model, weight_bits=(4,), activation_bits=(6,), first_last_bits=None)
    macs = {point.layer: point.macs for point in found.quantizers if point.macs}
    total = count_costs(model, INPUTS[:1])["macs"]
    expected = sum(macs.values()) * 24 + (total - sum(macs.values())) * 1024
    assert found.costs(found.uniform(4, 6))["bit_operations"] == expected
    unquantized = space_of(model, weight_bits=(4,), activation_bits=(), first_last_bits=None)
    assert unquantized.costs(unquantized.uniform(4, 8))["bit_operations"] - expected == sum(macs.values()) * 4 * (32 - 6)


def test_what_is_stored_is_rebuilt_from_plain_data_and_answers_the_same(model: nn.Module, space: BitWidth) -> None:
    candidate = space.sample(np.random.default_rng(3))
    prepared = space.prepare(model, candidate).eval()
    assert space.check(model, candidate) == 0.0
    stored = pack_weights(prepared)
    assert is_quantized(prepared)
    assert not is_quantized(stored)
    rebuilt = apply(apply(copy.deepcopy(model), space.transformation(candidate)), PACK)
    rebuilt.load_state_dict(stored.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(INPUTS), prepared(INPUTS))
    assert {name: layer.stored.bits for name, layer in quantized_layers(rebuilt).items() if layer.stored} == {
        point.layer: candidate.values[point.decision] for point in space.quantizers if point.kind == "weight"
    }


def test_a_prepared_network_trains_its_weights_and_steps(model: nn.Module, space: BitWidth) -> None:
    prepared = space.prepare(model, space.uniform(3, 4)).train()
    prepared(INPUTS).square().sum().backward()
    for name, parameter in prepared.named_parameters():
        assert parameter.grad is not None, name
    assert any(name.endswith("weight_quantizer.scale") for name, _ in prepared.named_parameters())
    fixed = space_of(model, learned_step=False)
    assert not any(name.endswith(".scale") for name, _ in fixed.prepare(model, fixed.uniform(3, 4)).named_parameters())


def test_bias_correction_keeps_the_mean_of_what_layers_give(model: nn.Module) -> None:
    errors, inputs = [], INPUTS + 2
    for corrected in (True, False):
        settings = BitWidthSettings(weight_bits=(2,), activation_bits=(), first_last_bits=None, bias_correction=corrected)
        space = BitWidth(model, INPUTS[:1], settings, batches=[inputs])
        layer = space.prepare(model, space.uniform(2, 8)).eval().get_submodule("stem.0")
        with torch.no_grad():
            exact = F.conv2d(inputs, layer.weight, None, padding=1)
            errors.append((layer(inputs) - exact).mean((0, 2, 3)))
    norm = model.stem[1].requires_grad_(False)
    bias = norm.bias - norm.running_mean * norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    # What is left comes from pictures whose borders differ from their middle.
    assert float((errors[0] - bias).abs().max()) < 0.2 * float((errors[1] - bias).abs().max())


def test_another_candidates_training_is_taken_over(model: nn.Module, space: BitWidth) -> None:
    before, after = space.uniform(4, 8), space.uniform(3, 8)
    values = {**before.values, "inner.0.weight": 3, "up.activation": 6}
    source = space.prepare(model, type(before)(values))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1.5)
    prepared = space.prepare(model, after)
    space.inherit_weights(prepared, source.state_dict(), model)
    found, given = dict(prepared.named_parameters()), dict(source.named_parameters())
    for name in ("inner.0.weight", "up.bias", "inner.0.weight_quantizer.scale", "head.input_quantizer.scale"):
        assert torch.equal(found[name], given[name]), name
    # The bits of these differ.
    assert not torch.equal(found["up.weight_quantizer.scale"], given["up.weight_quantizer.scale"])
    assert not torch.equal(found["up.input_quantizer.scale"], given["up.input_quantizer.scale"])
    assert prepared.get_submodule("up.weight_quantizer").bits == 3


def test_a_sliced_network_is_quantized_and_rebuilt() -> None:
    model = trained(Residual())
    channels = ChannelMask(model, INPUTS[:1])
    cut = channels.sample(np.random.default_rng(0))
    small = channels.realize(model, cut)
    space = space_of(small)
    candidate = space.uniform(4, 8)
    stored = pack_weights(space.prepare(small, candidate))
    rebuilt = model
    for transformation in (channels.transformation(cut), space.transformation(candidate), PACK):
        rebuilt = apply(rebuilt, transformation)
    rebuilt.load_state_dict(stored.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(INPUTS), stored(INPUTS))


def test_patterns_ties_and_settings(model: nn.Module) -> None:
    space = space_of(model, exclude=("inner*", "add"), first_last_bits=None)
    assert list(space.domains) == [f"{layer}.{kind}" for layer in ("stem.0", "up", "head") for kind in ("weight", "activation")]
    assert "excluded by the pattern 'inner*'" in {entry.reason for entry in space.frozen}
    tied = space_of(model, tie="layer", weight_bits=(2, 4, 8), activation_bits=(4, 8), include=("inner*", "up"))
    assert {name: domain.options for name, domain in tied.domains.items()} == {"inner.0.weight": (4, 8), "up.weight": (4, 8)}
    prepared = tied.prepare(model, tied.uniform(4, 4))
    assert {module.bits for module in prepared.modules() if isinstance(module, Quantizer)} == {4}
    with pytest.raises(UnsupportedModelError, match="matches no layer"):
        space_of(model, include=("nothing*",))
    with pytest.raises(UnsupportedModelError, match="nothing in this network can be quantized: .*excluded by"):
        space_of(model, exclude=("*",))
    with pytest.raises(InvalidCandidateError, match="one of 2, 3, 4, 6, 8"):
        space.prepare(model, type(space.uniform(4, 8))({**space.uniform(4, 8).values, "up.weight": 5}))
    with pytest.raises(ValueError, match="weight_bits: expected numbers from 1 to 8, got 0"):
        BitWidthSettings(weight_bits=(0, 4))
    with pytest.raises(ValueError, match="activation_bits: expected numbers from 2 to 8, got 1"):
        BitWidthSettings(activation_bits=(1, 4))


def test_bits_by_name_pattern_where_the_first_match_counts(model: nn.Module) -> None:
    weights = {"inner": (2, 4), "*": (3, 8, 1)}
    space = space_of(model, weight_bits=weights, activation_bits={"up": (4,), "*": (8,)}, first_last_bits=None)
    options = {name: domain.options for name, domain in space.domains.items()}
    assert options == {
        "stem.0.weight": (1, 3, 8), "stem.0.activation": (8,), "inner.0.weight": (2, 4), "inner.0.activation": (8,),
        "up.weight": (1, 3, 8), "up.activation": (4,), "head.weight": (1, 3, 8), "head.activation": (8,),
        "add.activation": (8,),
    }  # fmt: skip
    assert space.starting_points()[0].values["inner.0.weight"] == 4
    edges = space_of(model, weight_bits=weights)
    assert edges.domains["stem.0.weight"].options == edges.domains["head.weight"].options == (8,)
    tied = space_of(
        model, weight_bits=weights, activation_bits={"inner": (4, 6), "*": (3, 8)}, tie="layer", first_last_bits=None
    )
    assert {name: domain.options for name, domain in tied.domains.items()} == {
        "stem.0.weight": (3, 8), "inner.0.weight": (4,), "up.weight": (3, 8), "head.weight": (3, 8), "add.activation": (3, 8),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_bits": {"lnner": (4,), "*": (8,)}}, r"'lnner' matches no layer .*nearest: 'inner'"),
        ({"weight_bits": {"inner*": (4,)}}, r"weight_bits: no pattern matches up; add one"),
        ({"weight_bits": {"head": (4,), "*": (8,)}}, r"'head' matches only head, whose bits first_last_bits decides"),
        ({"activation_bits": {"up": (4,)}, "first_last_bits": None}, r"activation_bits: no pattern matches stem\.0 and 3 more"),
        ({"weight_bits": {"up": (2,), "*": (8,)}, "activation_bits": (8,), "tie": "layer"}, "in common, and up has none"),
    ],
)
def test_patterns_that_decide_nothing_or_miss_a_layer_are_refused(model: nn.Module, settings: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        space_of(model, **settings)
    with pytest.raises(ValueError, match=r"weight_bits\.a: expected at least one number of bits for this pattern"):
        BitWidthSettings(weight_bits={"a": ()})


def test_one_bit_is_stored_as_it_was_trained(model: nn.Module) -> None:
    space = space_of(model, weight_bits=(1, 8), first_last_bits=None)
    cheapest = space.cheapest()
    assert cheapest.values["up.weight"] == 1
    prepared = space.prepare(model, cheapest)
    F.cross_entropy(prepared.train()(INPUTS), torch.arange(16) % 5).backward()
    gradient = prepared.get_submodule("up").weight.grad
    assert gradient is not None
    assert bool((gradient != 0.0).any())
    assert space.check(model, cheapest) < 1e-5
    eight = Candidate({**cheapest.values, "up.weight": 8})
    saved = space.costs(eight)["size_bytes"] - space.costs(cheapest)["size_bytes"]
    assert saved == 7 * prepared.get_submodule("up").weight.numel() / 8
    stored = pack_weights(prepared.eval())
    assert count_costs(stored, INPUTS[:1])["size_bytes"] == space.costs(cheapest)["size_bytes"]


def test_a_latency_table_is_added_up_and_must_be_whole(model: nn.Module) -> None:
    table = {"up": {"4x8": 1.0, "8x8": 1.5}, "head": {"8x8": 0.25}}
    settings = {"weight_bits": (4, 8), "activation_bits": (8,), "include": ("up", "head"), "latency": table}
    space = space_of(model, **settings)
    assert space.costs(space.uniform(4, 8))["latency_ms"] == 1.25
    with pytest.raises(SecateursError, match="no entry '4x8' for the layer 'up'"):
        space_of(model, **{**settings, "latency": {**table, "up": {"8x8": 1.5}}})


class Branching(nn.Module):
    """Code that torch.fx can't trace."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        x = x + x.relu() if float(x.detach().sum()) > -1e9 else x
        return self.head(x.mean((2, 3)))


def test_what_can_not_be_traced_keeps_its_additions_in_float_and_says_so() -> None:
    model = trained(Branching())
    space = BitWidth(model, INPUTS[:1], batches=[INPUTS])
    assert set(space.domains) == {"conv.weight", "conv.activation", "head.weight", "head.activation"}
    assert [(entry.name, "can't trace" in entry.reason) for entry in space.frozen] == [("additions", True)]
    prepared = space.prepare(model, space.uniform(8, 8))
    assert type(prepared) is Branching
    assert isinstance(prepared.norm, nn.Identity)
    torch.testing.assert_close(prepared.eval()(INPUTS), model(INPUTS), atol=0.05, rtol=0.05)


class TwoReaders(nn.Module):
    """A convolution that is read besides its BatchNorm, so that folding would change the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head((self.norm(x) * x).mean((2, 3)))


def test_a_batch_norm_is_not_folded_where_others_read_the_layer() -> None:
    model = TwoReaders().eval()  # Fresh statistics hide it; they are not used for the proof.
    space = BitWidth(model, INPUTS[:1])
    assert isinstance(space.prepare(model, space.uniform(8, 8)).norm, nn.BatchNorm2d)


class Chained(nn.Module):
    """Two activations in a row, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two, self.head = nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.5), nn.LeakyReLU(0.5), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.conv(x))).mean((2, 3)))


def test_activations_of_a_quantized_network_are_merged() -> None:
    model = Chained().eval()
    space = BitWidth(model, INPUTS[:1], batches=[INPUTS])
    prepared = space.prepare(model, space.uniform(4, 8)).eval()
    fused = fuse_activations(prepared, INPUTS)
    assert fused.report.removed == 1
    assert is_quantized(fused.model)
    with torch.no_grad():
        assert torch.equal(pack_weights(fused.model)(INPUTS), fused.model(INPUTS))
