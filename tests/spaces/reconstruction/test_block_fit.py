from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spaces.channels.groups import find_groups
from spaces.channels.surgery import Cut, apply_cut, plan_cut
from spaces.cloning.clone import clone
from spaces.execution.forward import call
from spaces.networks import BasicBlock, SmallResNet
from spaces.reconstruction import block_fit
from spaces.reconstruction.block_fit import BlockReconstruction
from spaces.reconstruction.blocks import block_calls
from spaces.reconstruction.kept import kept_of_parts
from tests.spaces.zoo import ZOO, example, network


def draw(count: int, seed: int = 3) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def tiny() -> nn.Module:
    """Build a network of two blocks whose statistics fit its activations."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), BasicBlock(8, 8), BasicBlock(8, 12, 2), nn.Flatten(), nn.Linear(192, 4)
        )
        for _ in range(20):
            model.train()(draw(32))
    return model.eval()


def halved(model: nn.Module, inputs: Tensor, share: float = 0.5) -> tuple[nn.Module, Cut]:
    groups, rng = find_groups(model, inputs[:1]), np.random.default_rng(0)
    mask = np.concatenate([rng.permutation(np.arange(one.size) < max(1, share * one.size)) for one in groups.groups])
    cut = plan_cut(groups, mask)
    return apply_cut(model, cut).eval(), cut


def fitting(dense: nn.Module, small: nn.Module, cut: Cut, steps: int = 25, inputs: Tensor | None = None) -> BlockReconstruction:
    return BlockReconstruction(dense, small, [cut], [draw(96) if inputs is None else inputs], call, steps, seed=1)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_blocks_come_nearer_on_images_that_nothing_has_seen_and_statistics_stay() -> None:
    dense = tiny()
    small, cut = halved(dense, draw(1))
    before, start, random = clone(small), state(small), torch.get_rng_state()
    solving, told = fitting(dense, small, cut), []
    fits = list(solving.solve(told=lambda block, step: told.append((block, step))))
    change = solving.conclude()
    assert solving.blocks == ("1", "2")
    assert not solving.unmatched
    assert [fit.block for fit in fits if fit.kept] == ["1", "2"]
    assert told == [(block, step) for block in ("1", "2") for step in range(1, 26)]
    assert all(fit.after < 0.8 * fit.before for fit in fits)
    assert change.kept
    fresh = draw(64, seed=9)
    errors = [float((model(fresh) - dense(fresh)).detach().square().mean()) for model in (before, small)]
    assert errors[1] < 0.9 * errors[0]
    after = state(small)
    buffers = [name for name, _ in small.named_buffers()]
    assert buffers
    assert same({name: start[name] for name in buffers}, {name: after[name] for name in buffers})
    assert torch.equal(start["0.weight"], after["0.weight"])  # Outside of all blocks.
    assert not any(parameter.grad is not None for parameter in small.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_blocks_that_are_trained_already_are_passed_over() -> None:
    dense = tiny()
    whole, cut = halved(dense, draw(1))
    first, second = clone(whole), clone(whole)
    fits = list(fitting(dense, whole, cut, steps=5).solve())
    one = next(fitting(dense, first, cut, steps=5).solve())
    resumed = fitting(dense, second, cut, steps=5)
    second.load_state_dict(first.state_dict())
    assert [one, *resumed.solve(1)] == fits
    assert same(state(second), state(whole))


@pytest.mark.parametrize("rate", [100.0, math.inf])
def test_a_block_that_gets_worse_keeps_its_weights(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_fit, "RATE", rate)
    dense = tiny()
    small, cut = halved(dense, draw(1))
    before = state(small)
    solving = fitting(dense, small, cut, steps=1)
    fits = list(solving.solve())
    assert not any(fit.kept for fit in fits)
    assert all(math.isfinite(fit.after) for fit in fits)
    assert not solving.conclude().kept
    assert same(before, state(small))


def test_a_network_whose_outputs_get_worse_keeps_its_weights() -> None:
    dense = tiny()
    small, cut = halved(dense, draw(1))
    before, solving = state(small), fitting(dense, small, cut)
    with torch.no_grad():
        small[4].weight.mul_(3.0)
    assert not solving.conclude().kept
    assert same(before, state(small))


def test_a_network_without_blocks_or_with_too_few_samples_has_nothing_to_train() -> None:
    dense = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    small, cut = halved(dense, draw(1))
    for solving in (fitting(dense, small, cut), fitting(tiny(), *halved(tiny(), draw(1)), inputs=draw(3))):
        assert (solving.blocks, solving.unmatched, len(solving), list(solving.solve())) == ((), (), 0, [])


@pytest.mark.parametrize("name", [*ZOO, "small_resnet"])
def test_a_part_returns_the_kept_slices_of_what_the_dense_part_returns(name: str) -> None:
    dense, inputs = (SmallResNet(1, 3, 4, 4).eval(), draw(1)) if name == "small_resnet" else (network(name), example(name))
    groups = find_groups(dense, inputs)
    mask = np.concatenate([np.random.default_rng(0).permutation(np.arange(one.size) < one.size / 2) for one in groups.groups])
    cut = plan_cut(groups, mask)
    small = apply_cut(dense, cut).eval()
    names = [part for part, module in dense.named_modules() if part and len(list(module.children()))]
    found = kept_of_parts(dense, [cut], inputs, call, names)
    calls = [block_calls(model, names, call, inputs) for model in (small, dense)]
    assert found.keys() <= set(names)
    for part, kept in found.items():
        few, many = (one[part][0].output for one in calls)
        assert few is not None
        assert many is not None
        assert few.shape == (many if kept is None else kept.of(many)).shape
    if name == "small_resnet":
        assert found.keys() == set(names)
        kept_of_stream = found["stage1.0"]
        assert kept_of_stream is not None
        stream = next(one for one in groups.groups if one.name == "conv")
        assert kept_of_stream.rows.tolist() == np.flatnonzero(mask[stream.offset : stream.offset + stream.size]).tolist()
        assert kept_of_stream.dim == 1
