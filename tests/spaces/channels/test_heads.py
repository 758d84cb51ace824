"""Attention heads are units: rows of q, k and v and columns of the output projection leave together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.cost import count_costs
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.errors import UnsupportedModelError
from spaces.filter_ratio import FilterRatio, FilterRatioSettings
from spaces.importance.criterion import score
from spaces.levels.levels import levels_of
from spaces.reconstruction.dense import DenseOutputs
from spaces.reconstruction.kept import kept_outputs
from spaces.reconstruction.reconstruct import Reconstruction
from spaces.transformation import apply

WIDTH, HEADS, PART, LENGTH = 24, 4, 6, 5
INPUTS = torch.randn(1, LENGTH, 3, generator=torch.Generator().manual_seed(0))
FREE = ChannelMaskSettings(compensate=False, max_ratio=1.0)


class Block(nn.Module):
    """Attention of a kind, which keeps the number of heads as an integer."""

    def __init__(self, attend: Callable[[Block, Tensor], Tensor], width: int = HEADS * PART, key_heads: int = HEADS) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.all_head_size, self.key_heads = HEADS, PART, HEADS * PART, key_heads
        self.query = nn.Linear(WIDTH, width)
        self.key = nn.Linear(WIDTH, key_heads * PART)
        self.value = nn.Linear(WIDTH, key_heads * PART)
        self.qkv = nn.Linear(WIDTH, 3 * width)
        self.output = nn.Linear(width, WIDTH)
        self.table = nn.Parameter(torch.randn(9, HEADS))
        self.norm, self.width_gain = nn.LayerNorm(PART), nn.Parameter(torch.linspace(0.5, 2.0, PART))
        self.gains = nn.Parameter(torch.linspace(0.5, 2.0, HEADS).reshape(HEADS, 1, 1))
        self.register_buffer("places", torch.arange(LENGTH)[:, None] - torch.arange(LENGTH) + LENGTH - 1)
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.attend(self, x))

    def split(self, x: Tensor, heads: int | None = None) -> Tensor:
        """Return ``(N, heads, length, part)``."""
        return x.view(x.shape[0], x.shape[1], self.num_heads if heads is None else heads, -1).transpose(1, 2)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))


def separate(block: Block, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*block.parts(x), is_causal=True).transpose(1, 2).flatten(2)


def fused(block: Block, x: Tensor) -> Tensor:
    n, length, _ = x.shape
    q, k, v = block.qkv(x).reshape(n, length, 3, block.num_heads, block.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, block.num_heads * block.head_dim)


def chunked(block: Block, x: Tensor) -> Tensor:
    q, k, v = (block.split(part) for part in block.qkv(x).chunk(3, dim=-1))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], -1)


def explicit(block: Block, x: Tensor) -> Tensor:
    q, k, v = block.parts(x)
    scores = (q @ k.transpose(-2, -1) / math.sqrt(block.head_dim)).softmax(-1)
    return (scores @ v).permute(0, 2, 1, 3).contiguous().view(*x.shape[:2], block.all_head_size)


def gained(block: Block, x: Tensor) -> Tensor:
    q, k, v = block.parts(x)
    scores = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * block.gains.clamp(max=4.0).exp()).softmax(-1)
    return (scores @ v).transpose(1, 2).reshape(*x.shape[:2], -1)


def biased(block: Block, x: Tensor) -> Tensor:
    bias = block.table[block.places.view(-1)].view(LENGTH, LENGTH, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
    return F.scaled_dot_product_attention(*block.parts(x), attn_mask=bias).transpose(1, 2).flatten(2)


def batched(block: Block, x: Tensor) -> Tensor:
    n, length, _ = x.shape
    q, k, v = (part.reshape(n * block.num_heads, length, block.head_dim) for part in block.parts(x))
    scores = torch.baddbmm(torch.zeros(1, 1, 1), q, k.transpose(1, 2), alpha=block.head_dim**-0.5).softmax(-1)
    mixed = torch.bmm(scores, v).view(n, block.num_heads, length, block.head_dim).transpose(1, 2)
    return mixed.reshape(n, length, block.head_dim * block.num_heads)


def summed(block: Block, x: Tensor) -> Tensor:
    q, k, v = (part.view(*x.shape[:2], -1, block.head_dim) for part in (block.query(x), block.key(x), block.value(x)))
    scores = torch.einsum("blhd,bmhd->bhlm", q, k).softmax(-1)
    return torch.einsum("bhlm,bmhd->blhd", scores, v).flatten(2)


def normed(block: Block, x: Tensor) -> Tensor:
    q, k, v = block.parts(x)
    q, k = block.norm(q), block.width_gain * (k * (k.square().mean(-1, keepdim=True) + 1e-6).rsqrt())
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def own_width(block: Block, x: Tensor) -> Tensor:
    n, length, width = x.shape
    return F.scaled_dot_product_attention(*block.parts(x)).transpose(1, 2).reshape(n, length, width)


class Net(nn.Module):
    """A block in a residual stream between two layers; the width of the stream differs from that of the heads."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.enter, self.norm, self.block, self.leave = nn.Linear(3, WIDTH), nn.LayerNorm(WIDTH), block, nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(x + self.block(self.norm(x)))


def network(attend: Callable[[Block, Tensor], Tensor], **options: int) -> Net:
    torch.manual_seed(0)
    return Net(Block(attend, **options)).eval()


def agrees(model: nn.Module, space: ChannelMask) -> None:
    """Compare sliced with masked, and predicted with counted costs, for candidates of every kind and of all together."""
    rng = np.random.default_rng(0)
    whole = {name: "1" * domain.length for name, domain in space.domains.items()}
    drawn = [space.sample(rng) for _ in range(2)]
    alone = [Candidate({**whole, name: one}) for name, one in space.cheapest().values.items()]
    for candidate in (*drawn, *alone, space.cheapest()):
        assert space.check(model, candidate) < 1e-12
        small = space.realize(model, candidate)
        counted, told = count_costs(small, INPUTS), space.costs(candidate)
        assert {key: told[key] for key in ("macs", "parameters")} == {key: counted[key] for key in ("macs", "parameters")}


def scaled_by_its_width(block: Block, x: Tensor) -> Tensor:
    q, k, v = block.parts(x)
    scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return (scores @ v).transpose(1, 2).flatten(2)


ONE, BOTH, VALUES = {"qk_width"}, {"qk_width", "v_width"}, {"v_width"}


@pytest.mark.parametrize(
    ("attend", "widths"),
    [
        (separate, BOTH),
        (fused, ONE),
        (chunked, ONE),
        (explicit, BOTH),
        (scaled_by_its_width, BOTH),
        (gained, VALUES),
        (biased, BOTH),
        (batched, ONE),
        (summed, ONE),
        (normed, VALUES),
    ],
)
def test_heads_and_their_widths_are_units(attend: Callable[[Block, Tensor], Tensor], widths: set[str]) -> None:
    model = network(attend)
    # An einsum over a single place multiplies element by element, which no counter sees.
    space = ChannelMask(model, INPUTS, replace(FREE, width_multiple=2 if attend is summed else 1))
    expected = {("channels", WIDTH), ("heads", HEADS), *((unit, PART) for unit in widths)}
    assert {(group.unit, group.size) for group in space.groups.groups} == expected
    agrees(model, space)


@pytest.mark.parametrize(("attend", "rows"), [(explicit, 0), (scaled_by_its_width, HEADS * PART), (separate, HEADS * PART)])
def test_a_scale_that_code_takes_from_the_cut_width_is_made_up_for(
    attend: Callable[[Block, Tensor], Tensor], rows: int
) -> None:
    model = network(attend)
    space = ChannelMask(model, INPUTS, replace(FREE, units=("qk_width",)))
    [name] = space.domains
    candidate = Candidate({name: "101010"})
    small = space.realize(model, candidate)
    kept = model.block.query.weight.reshape(HEADS, PART, WIDTH)[:, ::2].reshape(-1, WIDTH)
    factor = math.sqrt(0.5) if rows else 1.0
    torch.testing.assert_close(small.block.query.weight, factor * kept)
    assert space.check_prepared(space.prepare(model, candidate)) < 1e-12


def test_a_width_read_from_the_stream_ties_heads_and_places_to_it() -> None:
    model = network(own_width)
    space = ChannelMask(model, INPUTS, FREE)
    assert [(group.unit, group.size) for group in space.groups.groups] == [
        ("heads", HEADS),
        ("v_width", PART),
        ("qk_width", PART),
    ]
    agrees(model, space)


def shared(block: Block, x: Tensor) -> Tensor:
    q, k, v = (
        block.split(block.query(x)),
        block.split(block.key(x), block.key_heads),
        block.split(block.value(x), block.key_heads),
    )
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)


def repeated(block: Block, x: Tensor) -> Tensor:
    q, k, v = (
        part.view(*x.shape[:2], -1, block.head_dim).transpose(1, 2) for part in (block.query(x), block.key(x), block.value(x))
    )
    n, heads, length, part = k.shape
    k, v = (
        one[:, :, None].expand(n, heads, HEADS // 2, length, part).reshape(n, heads * (HEADS // 2), length, part)
        for one in (k, v)
    )
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("attend", [shared, repeated])
def test_a_head_of_keys_leaves_with_its_queries(attend: Callable[[Block, Tensor], Tensor]) -> None:
    model = network(attend, key_heads=2)
    space = ChannelMask(model, INPUTS, FREE)
    units = [(group.unit, group.size) for group in space.groups.groups if group.unit not in ("channels", "v_width", "qk_width")]
    assert units == [("kv_groups", 2)]
    agrees(model, space)


def test_every_head_of_many_blocks_is_found() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, WIDTH), *(Block(separate) for _ in range(5)), nn.Linear(WIDTH, 2)).eval()
    space = ChannelMask(model, INPUTS, FREE)
    assert [group.size for group in space.groups.groups if group.unit == "heads"] == [HEADS] * 5


def fixed(block: Block, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(*block.parts(x)).transpose(1, 2).reshape(*x.shape[:2], 24)


def masked(block: Block, x: Tensor) -> Tensor:
    slopes = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1) * block.places
    return F.scaled_dot_product_attention(*block.parts(x), attn_mask=slopes).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(("attend", "reason"), [(fixed, "24"), (masked, "its mask has values for a fixed number of heads")])
def test_heads_that_code_fixes_stay(attend: Callable[[Block, Tensor], Tensor], reason: str) -> None:
    model = network(attend)
    space = ChannelMask(model, INPUTS, FREE)
    assert [(group.unit, group.size) for group in space.groups.groups if "width" not in group.unit] == [("channels", WIDTH)]
    assert any(reason in group.reason for group in space.groups.frozen if group.unit == "heads")
    agrees(model, space)


def test_integers_follow_the_heads_and_are_kept() -> None:
    model = network(explicit)
    space = ChannelMask(model, INPUTS, FREE)
    small = space.realize(model, space.cheapest())
    with torch.no_grad():
        first, again = small(INPUTS), small(INPUTS)
    assert torch.equal(first, again)
    assert isinstance(small.block, Block)
    assert (small.block.num_heads, small.block.head_dim, small.block.all_head_size) == (1, PART, 1)
    assert isinstance(model.block, Block)
    assert (model.block.num_heads, model.block.all_head_size) == (HEADS, HEADS * PART)
    made = json.loads(json.dumps(space.transformation(space.cheapest())))
    rebuilt = apply(network(explicit), made)
    rebuilt.load_state_dict(small.state_dict())
    exported = torch.export.export(small, (INPUTS,)).module()
    with torch.no_grad():
        assert torch.equal(rebuilt(INPUTS), first)
        assert torch.allclose(exported(INPUTS), first, atol=1e-6)


def test_multiples_are_for_their_own_kind() -> None:
    model = network(separate)
    settings = ChannelMaskSettings(compensate=False, round_to=8, heads_multiple=2, width_multiple=3)
    space = ChannelMask(model, INPUTS, settings)
    counts = {group.unit: space.domains[group.name].legal_counts() for group in space.groups.groups}
    assert counts == {"channels": [8, 16, 24], "heads": [2, 4], "qk_width": [3, 6], "v_width": [3, 6]}
    assert space.open_layers()["block.output"].step == 2
    coarse = FilterRatio(model, INPUTS, FilterRatioSettings(round_to=8, compensate=False))
    assert set(coarse.domains["block.query"].numbers) >= {0.0, 0.5}


def test_kinds_of_units_are_chosen() -> None:
    model = network(separate)
    space = ChannelMask(model, INPUTS, replace(FREE, units=("heads",)))
    assert [group.unit for group in space.groups.groups] == ["heads"]
    assert "channels are not among `units`" in {group.reason for group in space.groups.frozen}
    agrees(model, space)
    with pytest.raises(UnsupportedModelError, match="channels, heads, qk_width, v_width, and got 'kv_groups'"):
        ChannelMask(model, INPUTS, replace(FREE, units=("channels", "kv_groups")))


def test_levels_take_whole_heads() -> None:
    model = network(separate)
    space = ChannelMask(model, INPUTS, FREE)
    [name] = [group.name for group in space.groups.groups if group.unit == "heads"]
    table = {one: np.arange(group.length, 0, -1) for one, group in space.domains.items()}
    levels = levels_of(space.domains, space.levels, table, 3)
    assert levels[name] == ("1000", "1110", "1111")


def test_solved_and_compensated_networks_lose_whole_heads() -> None:
    model = network(separate)
    inputs = torch.randn(16, LENGTH, 3, generator=torch.Generator().manual_seed(1))
    space = ChannelMask(model, INPUTS, ChannelMaskSettings(), batches=[inputs])
    half = Candidate(
        {name: "1" * (one.length // 2) + "0" * (one.length - one.length // 2) for name, one in space.domains.items()}
    )
    scores = score(model, space.groups, "l2")
    plain = ChannelMask(model, INPUTS, FREE).realize(model, half)
    plan = plan_cut(space.groups, space.groups.mask(half))
    solved = apply_cut(model, plan).eval()
    for _ in Reconstruction(DenseOutputs(model, [inputs]), solved, kept_outputs(model, [plan])).solve():
        pass
    with torch.no_grad():
        errors = [
            float((small.eval()(inputs) - model(inputs)).square().mean())
            for small in (plain, space.realize(model, half), solved)
        ]
    assert {name: len(values) for name, values in scores.items()} == {name: one.length for name, one in space.domains.items()}
    assert solved.block.output.weight.shape == (WIDTH // 2, 2 * PART // 2)
    assert errors[2] < errors[0]
    assert errors[1] < errors[0]


def test_solved_queries_keep_the_factor_of_their_width() -> None:
    model = network(separate)
    inputs = torch.randn(16, LENGTH, 3, generator=torch.Generator().manual_seed(1))
    space = ChannelMask(model, INPUTS, replace(FREE, units=("qk_width",)))
    plan = plan_cut(space.groups, space.groups.mask(Candidate(dict.fromkeys(space.domains, "101010"))))
    plain, solved = apply_cut(model, plan), apply_cut(model, plan).eval()
    for _ in Reconstruction(DenseOutputs(model, [inputs]), solved, kept_outputs(model, [plan])).solve():
        pass
    # What they read is whole, so that the solution is what they are.
    torch.testing.assert_close(solved.block.query.weight, plain.block.query.weight, rtol=1e-2, atol=1e-3)
