from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.execution.forward import call
from spaces.networks import BasicBlock, mobilenet_v2_small, resnet20
from spaces.reconstruction.blocks import block_calls, find_blocks, is_block
from tests.spaces.zoo import conv_bn, example, network


def blocks(model: nn.Module, inputs: Tensor) -> tuple[str, ...]:
    return find_blocks(model.eval(), inputs, call)


class Unit(nn.Module):
    """Two layers with a nonlinearity between them, which is no module."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return self.second(F.gelu(self.first(x) + shift))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def test_blocks_of_residual_networks_end_behind_their_additions() -> None:
    sample = torch.randn(1, 3, 16, 16)
    assert blocks(resnet20(), sample) == tuple(f"stage{stage}.{place}" for stage in (1, 2, 3) for place in range(3))
    found = blocks(mobilenet_v2_small(), sample)
    assert len(found) == 17
    assert all(name.count(".") == 1 for name in found)
    assert blocks(nn.Sequential(nn.Linear(4, 4), Residual(Unit()), Residual(Unit())), torch.randn(1, 4)) == ("1", "2")


def test_single_layers_with_their_activations_are_blocks_where_nothing_holds_several() -> None:
    assert blocks(network("plain"), example("plain")) == ("first", "second")
    units = nn.Sequential(conv_bn(3, 4), conv_bn(4, 4))
    several = nn.Sequential(units, nn.Flatten(), nn.Linear(256, 2))
    assert blocks(several, torch.randn(1, 3, 8, 8)) == ("0",)
    many = nn.Sequential(nn.Sequential(*(conv_bn(3, 3) for _ in range(11))), nn.Flatten())
    assert blocks(many, torch.randn(1, 3, 8, 8)) == tuple(f"0.{place}" for place in range(11))


class Odd(nn.Module):
    """Parts that are no blocks, each for another reason."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.unit, self.seen = kind, Unit(), [0]
        self.unit.forward = self._unit if kind == "state" else self.unit.forward  # type: ignore[method-assign]
        if kind == "affine":
            self.unit = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))  # type: ignore[assignment]
        self.tied = nn.Linear(4, 4)
        if kind == "tied":
            self.tied.weight = self.unit.first.weight

    def _unit(self, x: Tensor) -> Tensor:
        self.seen[0] += 1
        return Unit.forward(self.unit, x) * self.seen[0]

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "twice":
            return self.unit(self.unit(x))
        return self.tied(F.relu(self.unit(x)))


@pytest.mark.parametrize(("kind", "expected"), [("plain", 1), ("affine", 0), ("twice", 0), ("tied", 0), ("state", 0)])
def test_parts_that_do_not_run_alone_or_once_are_no_blocks(kind: str, expected: int) -> None:
    assert len(blocks(Odd(kind), torch.randn(2, 4))) == expected


def test_arguments_beside_the_tensor_stay_and_nothing_of_the_network_changes() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unit = Unit()
            self.unit.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.unit(F.relu_(x * 1.0), shift=2.0)

    model, inputs = Shifted(), torch.randn(3, 4)
    before, state = inputs.clone(), torch.get_rng_state()
    assert blocks(model, inputs) == ("unit",)
    (found,) = block_calls(model, ["unit"], call, inputs)["unit"]
    assert found.keywords == {"shift": 2.0}
    assert torch.equal(found.answer(model.unit), model(inputs))
    assert is_block(model.unit, found)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(before, inputs)
    assert torch.equal(state, torch.get_rng_state())


def test_a_pass_up_to_a_block_runs_nothing_behind_it() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("behind")

    model = nn.Sequential(BasicBlock(3, 3), Fails()).eval()
    assert len(block_calls(model, ["0"], call, torch.randn(2, 3, 8, 8), first=True)["0"]) == 1
    with pytest.raises(RuntimeError, match="behind"):
        block_calls(model, ["0"], call, torch.randn(2, 3, 8, 8))
