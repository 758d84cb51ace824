"""Name patterns: matching, left-out reasons, values by pattern, and one behaviour in every space and sparsifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spaces import SPACES
from spaces.base import SearchSpace
from spaces.errors import UnsupportedModelError
from spaces.execution.forward import call
from spaces.patterns import first_match, reason_left_out, require_matches, value_of
from spaces.registry import resolve
from spaces.sparsifiers import SPARSIFIERS
from spaces.sparsifiers.gradient_cut import GradientCut, GradientCutSettings
from spaces.sparsifiers.probabilistic import Probabilistic, ProbabilisticSettings
from tests.spaces.zoo import conv_bn


@pytest.mark.parametrize(
    ("name", "pattern", "matched"),
    [
        ("layer1.0.conv1", "layer1.0.conv1", True),
        ("layer1.0.conv1", "layer1", True),
        ("layer1.0.conv1", "layer1.0", True),
        ("layer1.0.conv1", "*.conv?", True),
        ("layer1.0.conv1", "layer1.[0-3]", True),
        ("layer1.0.conv1", "layer", False),
        ("layer1.0.conv1", "conv1", False),
        ("layer1.0.conv1", "Layer1", False),
        ("layer10.0", "layer1", False),
        ("conv#2", "conv", True),
        ("conv#2", "conv#2", True),
        ("conv#2", "conv#1", False),
        ("block.conv#2", "block", True),
        ("odd[0]", "odd[0]", True),
    ],
)
def test_a_pattern_matches_a_name_or_a_parent(name: str, pattern: str, matched: bool) -> None:
    assert first_match(name, [pattern]) == (pattern if matched else None)


def test_the_first_pattern_that_matches_counts() -> None:
    assert first_match("a.b", ["c", "a", "a.b"]) == "a"
    assert value_of("a.b", {"c": 1, "a": 2, "a.b": 3}, 4) == 2
    assert value_of("d", {"c": 1}, 4) == 4


def test_what_is_left_out_has_a_reason() -> None:
    assert reason_left_out("a.b", (), ()) == reason_left_out("a.b", ("a",), ("c",)) == ""
    assert reason_left_out("a.b", ("a",), ("a.b", "a")) == "excluded by the pattern 'a.b'"
    assert reason_left_out("a.b", ("c",), ()) == "no include pattern names it"


def test_a_pattern_that_matches_nothing_names_the_nearest() -> None:
    require_matches(["stem", "layer1", "*.0"], ["stem", "layer1.0"])
    with pytest.raises(UnsupportedModelError, match=r"'layr1' matches no layer of the network; nearest: 'layer1', 'layer1.0'"):
        require_matches(["stem", "layr1"], ["stem", "layer1.0"])


class Staged(nn.Module):
    """A network with stages, each a part with parts."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.layer1 = nn.Sequential(conv_bn(8, 6), conv_bn(6, 6))
        self.layer2 = nn.Sequential(conv_bn(6, 8), conv_bn(8, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


INPUTS = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCH = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> Staged:
    torch.manual_seed(0)
    return Staged().eval()


def space_of(name: str, model: nn.Module, **patterns: tuple[str, ...]) -> Any:
    space: Any = resolve(SPACES[name])
    settings: Any = space.Settings
    if name == "joint":
        kinds = settings()
        chosen = settings(type(kinds.channels)(**patterns), type(kinds.bits)(**patterns))
    else:
        chosen = settings(**patterns)
    return space(model, INPUTS, chosen, forward=call, batches=[BATCH])


def opened(space: SearchSpace[Any]) -> set[str]:
    """Return the layers that a space may change."""
    groups = set() if space.channels is None else {group.name for group in space.channels.groups}
    return groups | {location.layer for location in space.quantizers}


# Depth needs branches, which this network has none of; tests/spaces/test_depth.py has its patterns.
@pytest.mark.parametrize("name", [name for name in SPACES if name != "depth"])
def test_every_space_leaves_out_a_stage_by_its_name(name: str, model: Staged) -> None:
    everything, rest = opened(space_of(name, model)), opened(space_of(name, model, exclude=("layer1",)))
    stage = {layer for layer in everything if layer.startswith("layer1.")}
    assert stage
    assert rest == everything - stage
    assert opened(space_of(name, model, include=("layer1",))) == stage
    with pytest.raises(UnsupportedModelError, match="'layer3' matches no layer of the network; nearest: 'layer"):
        space_of(name, model, exclude=("layer3",))


@pytest.mark.parametrize("name", SPARSIFIERS)
def test_every_sparsifier_names_a_pattern_that_matches_nothing(name: str, model: Staged) -> None:
    sparsifier: Any = resolve(SPARSIFIERS[name])
    sparsifier(sparsifier.Settings(exclude=("layer1",))).trace(model, INPUTS, call)
    with pytest.raises(UnsupportedModelError, match="'layer3' matches no layer of the network; nearest: 'layer"):
        sparsifier(sparsifier.Settings(exclude=("layer3",))).trace(model, INPUTS, call)


def test_ratios_are_given_by_stage(model: Staged) -> None:
    probabilistic = Probabilistic(ProbabilisticSettings(ratio=0.0, ratios={"layer1": 0.5}))
    cut = GradientCut(GradientCutSettings(ratio=0.0, ratios={"layer1": 0.5}))
    for sparsifier in (probabilistic, cut):
        sparsifier.trace(model, INPUTS, call)
        sparsifier.start(model, 1)
        if sparsifier is cut:
            sparsifier.before_forward(BATCH, torch.arange(8) % 4)
            nn.functional.cross_entropy(model(BATCH), torch.arange(8) % 4).backward()
            sparsifier.after_backward()
        sparsifier.finish()
        left = {name: int(mask.sum()) for name, mask in sparsifier.keep_masks().items()}
        assert left == {"stem.0": 8, "layer1.0.0": 3, "layer1.1.0": 3, "layer2.0.0": 8, "layer2.1.0": 8}


@pytest.mark.parametrize("name", ["gradient_cut", "probabilistic"])
def test_ratios_of_nothing_are_an_error(name: str, model: Staged) -> None:
    sparsifier: Any = resolve(SPARSIFIERS[name])
    with pytest.raises(UnsupportedModelError, match="'layer3' matches no layer with channels of the network; nearest: 'layer"):
        sparsifier(sparsifier.Settings(ratios={"layer3": 0.5})).trace(model, INPUTS, call)


def test_ratios_of_no_columns_are_an_error(model: Staged) -> None:
    columns = Probabilistic(ProbabilisticSettings(groups="columns", ratios={"layer3": 0.5}))
    with pytest.raises(UnsupportedModelError, match="'layer3' matches no layer"):
        columns.trace(model, INPUTS, call)
