"""Depth in the joint space: branches leave with their channels and bits, and the rest answers as if they were zero."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.cost import count_costs
from spaces.bit_width import BitWidthSettings
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMaskSettings
from spaces.depth import DepthSettings
from spaces.errors import InvalidCandidateError
from spaces.execution.batch import map_tensors
from spaces.execution.forward import call
from spaces.joint import Joint
from spaces.joint_settings import JointSettings
from spaces.networks import encoder_small
from spaces.reconstruction.dense import DenseOutputs
from spaces.reconstruction.reconstruct import closed_loop
from spaces.testing import check_space
from tests.spaces.test_depth import IDS, IMAGE, NETWORKS, seeded
from tests.variants import few

BITS = BitWidthSettings(weight_bits=(4, 8), activation_bits=(8,))
ALL = ("channel_mask", "depth", "bit_width")
VARIANTS = [
    ("gpt", "branch", ALL),
    ("resnet20", "branch", ("channel_mask", "depth")),
    *((name, unit, ALL) for name in ("resnet20", "vit", "resnet18", "encoder") for unit in ("branch", "block")),
    *((name, "branch", ("depth", "bit_width")) for name in ("gpt", "vit")),
]


def settings(unit: str = "branch", spaces: tuple[str, ...] = ("channel_mask", "depth"), **depth: Any) -> JointSettings:
    return JointSettings(spaces=spaces, depth=DepthSettings(unit=unit, **depth), bits=BITS)  # type: ignore[arg-type]


@functools.cache
def joint() -> tuple[nn.Module, Joint]:
    model = seeded(lambda: encoder_small(16, 3, 2, 16, 2, length=8))
    return model, Joint(model, {"ids": IDS, "mask": IDS < 6}, settings())


@pytest.mark.parametrize("variant", few(VARIANTS, 1), ids=lambda variant: "-".join(map(str, variant[:2])))
def test_candidates_are_exact(variant: tuple[str, str, tuple[str, ...]]) -> None:
    name, unit, spaces = variant
    make, inputs, branches, blocks = NETWORKS[name]
    model, own = seeded(make), settings(unit, spaces)
    # BatchNorm of maps of one pixel has no statistics of one image.
    two = map_tensors(lambda tensor: torch.cat([tensor, tensor]), inputs)
    check_space(Joint, model, inputs, lambda small: count_costs(small, inputs), own, batches=[two], candidates=2)
    space = Joint(model, inputs, own)
    assert len(space.removable) == (branches if unit == "branch" else blocks)


def test_what_only_a_removed_branch_has_decides_nothing_and_costs_nothing() -> None:
    model, space = joint()
    rng = np.random.default_rng(0)
    gone = "blocks.0.attention.branch"
    without = space.sample(rng).joined(Candidate({part.name: int(part.name != gone) for part in space.removable}))
    idle = space.idle(without)
    groups = [group.name for group in space.groups.groups]
    assert set(idle) == {name for name in groups if name.startswith("blocks.0.attention.")}
    other = without.joined(space.sample(rng).part(idle))
    assert other != without
    assert space.costs(other) == space.costs(without)
    networks = [space.realize(model, one).state_dict() for one in (without, other)]
    assert networks[0].keys() == networks[1].keys()
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
    rows = {row["name"]: row["kept"] for row in space.report_rows(without)["layers"]}
    assert all((rows[name] == 0) == (name in idle) for name in groups)
    assert not space.idle(without.joined(Candidate({gone: 1})))


def test_zeros_have_the_widths_of_the_network_that_is_cut() -> None:
    """Projections as wide as the stream by chance alone keep their width when the stream gets narrower."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = 2
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (
                layer(x).view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v)
            )
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return x + self.out(mixed)

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks, self.head = nn.Linear(3, 8), nn.Sequential(Block(), Block()), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(self.blocks(self.stem(x)))
            return found

    model, inputs = seeded(Stack), torch.randn(1, 5, 3)
    space = Joint(model, inputs, settings())
    assert not [part for part in space.frozen if part.name in ("blocks.0", "blocks.1")]
    candidate = space.sample(np.random.default_rng(0)).joined(Candidate({"stem": "11111000"}))
    candidate = candidate.joined(Candidate({part.name: place for place, part in enumerate(space.removable)}))
    assert space.check(model, candidate) <= 1e-9
    small = space.realize(model, candidate)
    assert space.costs(candidate)["macs"] == count_costs(small, inputs)["macs"]
    assert small(torch.randn(2, 4, 3)).shape == (2, 4, 3)


def test_only_so_many_leave() -> None:
    model = seeded(NETWORKS["gpt"][0])
    space = Joint(model, NETWORKS["gpt"][1], settings(max_removed=1))
    rng = np.random.default_rng(0)
    assert {space.costs(space.sample(rng))["removed_units"] for _ in range(20)} == {0.0, 1.0}
    assert space.costs(space.cheapest())["removed_units"] == 1.0
    none = space.cheapest().joined(Candidate({part.name: 0 for part in space.removable}))
    assert space.excess(none) == 3.0
    with pytest.raises(InvalidCandidateError, match="max_removed"):
        space.validate(none)


def test_layers_are_solved_to_make_up_for_what_is_gone() -> None:
    make, _, *_ = NETWORKS["resnet20"]
    model = seeded(make)
    batch = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    space = Joint(model, IMAGE, JointSettings(ChannelMaskSettings(compensate=False), spaces=("channel_mask", "depth")))
    whole = Candidate({name: "1" * domain.channels for name, domain in space.domains.items() if domain.channels})
    names = [part.name for part in space.removable]
    candidate = whole.joined(Candidate({name: int(name not in names[1:3]) for name in names}))
    solved = space.reconstruct(model, candidate, closed_loop(DenseOutputs(model, [batch])))
    plain = space.realize(model, candidate)
    with torch.no_grad():
        dense = call(model, batch)
        errors = [float((call(one.eval(), batch) - dense).square().mean()) for one in (solved, plain)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize("spaces", [("depth",), ("depth", "depth"), ()])
def test_other_than_two_or_three_spaces_are_refused(spaces: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="two or three different ones"):
        JointSettings(spaces=spaces)  # type: ignore[arg-type]
