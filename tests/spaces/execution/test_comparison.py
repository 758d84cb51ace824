"""The comparison of sliced and masked networks on code as people write it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channel_mask import ChannelMask
from spaces.channels.check import equivalence_error, find_checked_groups, half_mask
from spaces.errors import EquivalenceError
from spaces.execution.forward import tensors_in

INPUTS = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3, padding=1)
        self.head = nn.Linear(12, 5)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))


class Keywords(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Any:
        return self.head(input=self.norm(input=F.relu(self.second(input=F.relu(self.first(input=x)))).mean((2, 3))))


class Noisy(Base):
    """A variational autoencoder's sampling, behind dropout of elements and of channels that stays on."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread = nn.Linear(12, 6), nn.Linear(12, 6)
        self.head = nn.Linear(6, 5)
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Any:
        x = F.dropout2d(F.relu(self.first(x)), 0.5, training=True)
        x = F.dropout(F.relu(self.second(x)).mean((2, 3)), 0.3, training=True)
        x = x + torch.empty_like(x).uniform_(0, 0.1) + torch.rand(x.shape[0], 1, generator=self.generator)
        mean, spread = self.mean(x), torch.exp(self.spread(x))
        return self.head(mean + spread * torch.randn_like(spread)), self.head(torch.normal(mean, spread)), torch.randperm(5)


class QuantizedTail(Base):
    """Runs in single precision only: torch quantizes no other type."""

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.quantize_per_tensor(self.features(x.float()).float(), 0.02, 0, torch.quint8).dequantize())


class Typed(Base):
    """Insists on its type, as custom kernels do."""

    def forward(self, x: Tensor) -> Any:
        if x.dtype != torch.float32:
            raise TypeError(f"expected float32, got {x.dtype}")
        return super().forward(x).half()


class Nothing(Base):
    def forward(self, x: Tensor) -> Any:
        scores = super().forward(x)
        return scores[scores[:, 0] > 99], scores


@dataclass
class Answer:
    logits: Tensor
    parts: dict[str, Any]


class Objects(Base):
    def forward(self, x: Tensor) -> Any:
        features = F.relu(self.first(x))
        return Answer(self.head(F.relu(self.second(features)).mean((2, 3))), {"features": [features], "size": 3})


class Unlimited(Base):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).masked_fill(torch.tensor([True, False, False, False, False]), float("-inf"))


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 5)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            chosen = torch.full((len(x),), number == 0)
            y[chosen] = expert(x[chosen])
        return self.leave(y.relu())


OPEN: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "keywords": (Keywords, [16, 12]),
    "noise": (Noisy, [16, 12, 6]),
    "quantized tail": (QuantizedTail, [16]),
    "one type": (Typed, [16, 12]),
    "empty outputs": (Nothing, [16, 12]),
    "objects": (Objects, [12]),
    "infinite outputs": (Unlimited, [16, 12]),
    "experts": (Experts, [24]),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", OPEN)
def test_sliced_equals_masked(name: str) -> None:
    make, sizes = OPEN[name]
    model, inputs = make().eval(), INPUTS if name != "experts" else torch.randn(1, 6)
    space = ChannelMask(model, inputs, batches=[inputs])
    assert [group.size for group in space.groups.groups] == sizes
    candidate = space.cheapest()
    assert space.check(model, candidate) < (0.05 if name in ("quantized tail", "one type") else 1e-8)
    shapes = [tensor.shape for tensor in tensors_in(model(inputs))]
    assert [tensor.shape for tensor in tensors_in(space.realize(model, candidate)(inputs))] == shapes


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", ["noise", "quantized tail", "one type", "objects"])
def test_a_wrong_slice_is_found(name: str) -> None:
    model = OPEN[name][0]().eval()
    groups = find_checked_groups(model, INPUTS)
    wrong = {tensor: dict(dims) for tensor, dims in groups.ties.items()}
    broken = "second.weight" if 1 in wrong.get("second.weight", {}) else "head.weight"
    wrong[broken][1] = wrong[broken][1][::-1].copy()
    with pytest.raises(EquivalenceError, match="differs from the masked one"):
        equivalence_error(
            model,
            type(groups)(groups.groups, groups.frozen, wrong, groups.layers),
            half_mask(groups, groups.groups),
            INPUTS,
        )


def test_a_network_that_reads_a_global_of_the_original_is_told_by_name() -> None:
    model = Base().eval()
    kept = {"second": model.second}

    class Borrowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner.head(F.relu(kept["second"](F.relu(self.inner.first(x)))).mean((2, 3)))

    groups = find_checked_groups(Base().eval(), INPUTS)
    assert groups.groups
    borrowing = Borrowing().eval()
    with pytest.raises(EquivalenceError, match=r"reads inner\.second\.weight.* of the network that it was made from"):
        equivalence_error(borrowing, type(groups)((), (), {}, ()), half_mask(groups, []), INPUTS)


class Image(Tensor):
    """A subclass of Tensor, as fastai and MONAI have."""


class Wrapping(Base):
    def forward(self, x: Tensor) -> Any:
        features = F.relu(self.first(x.as_subclass(Image))).as_subclass(Tensor)
        return self.head(F.relu(self.second(features)).as_subclass(Image).mean((2, 3))).as_subclass(Tensor)


def stored_as_images() -> nn.Module:
    model = Base()
    model.second.weight = nn.Parameter(model.second.weight.detach().as_subclass(Image))
    return model


class Shaken(Base):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        return self.head(F.relu(self.second(x + torch.randn(x.shape) * 0.1)).mean((2, 3)))


class FixedNoise(Base):
    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.first(x))
        return self.head(F.relu(self.second(x * torch.rand(1, 16, 1, 1))).mean((2, 3)))


class Compiled(Base):
    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Any:
        return Base.forward(self, x)


@pytest.mark.parametrize(
    ("make", "inputs", "expected"),
    [
        (Wrapping, INPUTS, [16, 12]),
        (stored_as_images, INPUTS, [16, 12]),
        (Base, INPUTS.as_subclass(Image), [16, 12]),
        (Shaken, INPUTS, [16, 12]),
        (FixedNoise, INPUTS, [12]),
        (Compiled, INPUTS, [16, 12]),
    ],
    ids=["in code", "weights", "inputs", "noise of a shape", "noise of fixed size", "compiled method"],
)
def test_tensor_subclasses_noise_and_compiled_methods_are_followed(
    make: Callable[[], nn.Module], inputs: Tensor, expected: list[int]
) -> None:
    model = make().eval()
    space = ChannelMask(model, inputs)
    assert [group.size for group in space.groups.groups] == expected
    assert space.check(model, space.cheapest()) < 1e-8


class Joined(nn.Module):
    """Pools and flattens what two layers wrote, and changes shapes in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(torch.cat([self.one(x), F.relu(self.two(x))], 1), 1)
        y = x.detach()
        y.squeeze_(-1).squeeze_(-1)
        return self.head(torch.flatten(x, 1)) + self.head(y)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_layout_makes_no_difference(layout: torch.memory_format) -> None:
    model, inputs = Joined().eval().to(memory_format=layout), INPUTS.to(memory_format=layout)
    space = ChannelMask(model, inputs)
    assert [group.size for group in space.groups.groups] == [8, 6]
    assert space.check(model, space.cheapest()) < 1e-8
