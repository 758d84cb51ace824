"""Tied blocks: the same unit of every block is one decision, and configurations follow what is cut."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.cost import count_costs
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.errors import SecateursError, UnsupportedModelError
from spaces.transformation import apply

X = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
TIED = ChannelMaskSettings(compensate=False, max_ratio=1.0, tie="blocks")


@dataclass
class Config:
    """The numbers that a network is built by."""

    width: int = 24
    num_heads: int = 4
    inner: int = 10
    blocks: int = 3
    head_dim: int | None = None
    strict: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def validate(self) -> None:
        if self.strict and self.width % self.num_heads:
            raise ValueError("no multiple")


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        part = config.head_dim or config.width // config.num_heads
        self.q, self.k, self.v = (nn.Linear(config.width, part * config.num_heads) for _ in range(3))
        self.out = nn.Linear(part * config.num_heads, config.width)
        self.up, self.down = nn.Linear(config.width, config.inner), nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = (layer(x).view(n, length, self.num_heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    """Blocks in a residual stream, built by a configuration alone."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.enter, self.leave = nn.Linear(3, config.width), nn.Linear(config.width, 2)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
        return self.leave(x)


class Plain(Net):
    """The same without a configuration."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        del self.config


def made(kind: type[Net] = Net, **numbers: Any) -> Net:
    torch.manual_seed(0)
    return kind(Config(**numbers)).eval()


def found(space: ChannelMask) -> list[tuple[str, str, int]]:
    return [(group.name, group.unit, group.size) for group in space.groups.groups]


def agrees(model: Net, space: ChannelMask) -> None:
    for candidate in (space.sample(np.random.default_rng(0)), space.cheapest()):
        assert space.check(model, candidate) < 1e-12
        counted, told = count_costs(space.realize(model, candidate), X), space.costs(candidate)
        assert (told["macs"], told["parameters"]) == (counted["macs"], counted["parameters"])


def test_the_same_unit_of_all_blocks_is_one_decision() -> None:
    model = made(Plain)
    space = ChannelMask(model, X, TIED)
    assert found(space) == [
        ("enter", "channels", 24),
        ("blocks.0.q", "heads", 4),
        ("blocks.0.q#2", "qk_width", 6),
        ("blocks.0.v", "v_width", 6),
        ("blocks.0.up", "channels", 10),
    ]
    agrees(model, space)
    whole = {name: "1" * domain.length for name, domain in space.domains.items()}
    small = space.realize(model, Candidate({**whole, "blocks.0.q": "0110", "blocks.0.up": "1" * 4 + "0" * 6}))
    assert [tuple(block.q.weight.shape) for block in small.blocks] == [(12, 24)] * 3  # type: ignore[union-attr, operator]
    assert [block.up.out_features for block in small.blocks] == [4] * 3  # type: ignore[union-attr, operator]
    assert len(found(ChannelMask(model, X, ChannelMaskSettings(compensate=False)))) == 13


def test_a_configuration_is_set_with_the_cut() -> None:
    model = made()
    space = ChannelMask(model, X, TIED)
    # Without a width of its own a head is its share of the stream.
    assert found(space) == [("enter", "heads", 4), ("blocks.0.up", "channels", 10)]
    agrees(model, space)
    half = Candidate({"enter": "1010", "blocks.0.up": "1" * 4 + "0" * 6})
    small = space.realize(model, half)
    assert isinstance(small, Net)
    assert (small.config.width, small.config.num_heads, small.config.inner) == (12, 2, 4)
    assert model.config == Config()
    again = Net(small.config)
    again.load_state_dict(small.state_dict())
    rebuilt = apply(made(), json.loads(json.dumps(space.transformation(half))))
    rebuilt.load_state_dict(small.state_dict())
    with torch.no_grad():
        assert torch.equal(again(X), small(X))
        assert torch.equal(rebuilt(X), small(X))
    assert rebuilt.config == small.config
    record = json.loads(json.dumps(space.transformation(half)))
    record["attributes"][""] = {"config.no_number": 3}
    with pytest.raises(SecateursError, match="no_number"):
        apply(made(), record)


def test_heads_with_a_width_of_their_own_are_apart_from_the_stream() -> None:
    model = made(head_dim=5)
    space = ChannelMask(model, X, TIED)
    assert found(space) == [("enter", "channels", 24), ("blocks.0.q", "heads", 4), ("blocks.0.up", "channels", 10)]
    agrees(model, space)


@pytest.mark.parametrize(("width", "step"), [(24, 12), (20, 0)])
def test_widths_that_a_configuration_refuses_are_no_candidates(width: int, step: int) -> None:
    model = made(width=width, head_dim=5, strict=True)
    space = ChannelMask(model, X, TIED)
    if step:
        assert space.domains["enter"].legal_counts() == [12, 24]
    else:
        assert found(space)[0] == ("enter", "heads", 4)
    for candidate in (space.sample(np.random.default_rng(seed)) for seed in range(6)):
        small = space.realize(model, candidate)
        assert isinstance(small, Net)
        small.config.validate()
        Net(small.config).load_state_dict(small.state_dict())


def test_a_network_that_no_configuration_describes_is_refused() -> None:
    class Other(Net):
        """Has a layer whose width its configuration does not tell."""

        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.leave = nn.Sequential(nn.Linear(config.width, 7), nn.Linear(7, 2))  # type: ignore[assignment]

    with pytest.raises(
        UnsupportedModelError, match=r"no configuration of Other describes it with fewer channels of 'leave\.0'"
    ):
        ChannelMask(made(Other), X, TIED)
    assert ChannelMask(made(Other), X, ChannelMaskSettings(compensate=False, tie="blocks", exclude=("leave.0",))).groups


LOADING = """
import sys, torch, transformers
folder, kind = sys.argv[1:]
model = getattr(transformers, kind).from_pretrained(folder).eval()
inputs, told = torch.load(folder + "/told.pt")
with torch.no_grad():
    assert (model(inputs).logits - told).abs().max() < 1e-5
    if kind == "LlamaForCausalLM":
        options = dict(max_new_tokens=5, do_sample=False, pad_token_id=0)
        assert torch.equal(model.generate(inputs, **options), model.generate(inputs, use_cache=False, **options))
assert not {"spaces", "evaluators", "search", "secateurs"} & set(sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "ViTForImageClassification", "LlamaForCausalLM"])
def test_networks_of_transformers_are_loaded_without_this_project(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
    sizes |= {"image_size": 16, "patch_size": 4} if kind.startswith("ViT") else {"vocab_size": 99}
    sizes |= {"num_key_value_heads": 2} if kind.startswith("Llama") else {}
    name = kind.split("For")[0]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**sizes)).eval()
    inputs = torch.randn(1, 3, 16, 16) if name == "ViT" else torch.arange(7)[None] * 3 % 99
    space = ChannelMask(model, inputs, TIED, forward=lambda network, ids: network(ids).logits)
    for seed in range(2):
        folder = tmp_path / str(seed)
        small = space.realize(model, space.sample(np.random.default_rng(seed))).eval()
        small.save_pretrained(folder)  # type: ignore[operator]
        with torch.no_grad():
            torch.save((inputs, small(inputs).logits), folder / "told.pt")
        subprocess.run([sys.executable, "-c", LOADING, str(folder), kind], check=True, cwd=tmp_path)
