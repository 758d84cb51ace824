"""Wrappers are taken off and computed weights stored, in a clone; spaces name what was not."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from spaces.channel_mask import ChannelMask
from spaces.channels.groups import find_groups
from spaces.cloning.plain_network import plain_network
from spaces.errors import UnsupportedModelError

INPUTS = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def network(change: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [change(nn.Conv2d(3, 8, 3)), nn.ReLU(), change(nn.Conv2d(8, 6, 3)), nn.Flatten(), nn.Linear(6 * 16, 5)]
    return nn.Sequential(*layers).eval()


def masked(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


COMPUTED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "parametrized weight norm": (parametrizations.weight_norm, "the parametrization WeightNorm.*remove_parametrizations"),
    "parametrized spectral norm": (parametrizations.spectral_norm, "the parametrization SpectralNorm.*remove_parametrizations"),
    "spectral norm": (spectral_norm, "spectral_norm.*remove_spectral_norm"),
    "mask": (masked, r"a mask of torch\.nn\.utils\.prune.*prune\.remove"),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_are_stored_in_a_clone(name: str) -> None:
    change, words = COMPUTED[name]
    model = network(change)
    model(INPUTS).sum().backward()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    plain, (note,) = plain_network(model)
    assert "0.weight, 2.weight: what" in note
    torch.testing.assert_close(plain(INPUTS), model(INPUTS))
    assert {key for key, _ in plain.named_parameters()} == {key for key, _ in network().named_parameters()}
    assert ChannelMask(plain, INPUTS).groups.groups
    assert model.state_dict().keys() == before.keys()
    with pytest.raises(UnsupportedModelError, match=f"0: its weight is computed by {words}"):
        ChannelMask(model, INPUTS)


def test_the_old_weight_norm_is_folded_after_a_step_of_training() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = network(weight_norm)
    model(INPUTS).sum().backward()
    plain, notes = plain_network(model)
    assert "weight_norm" in notes[0]
    torch.testing.assert_close(plain(INPUTS), model(INPUTS))
    assert "0.weight_g" in model.state_dict()


class Standardized(nn.Conv2d):
    """Weight standardization, as a person writes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        weight = (self.weight - mean) / (std + 1e-5)
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class SamePadded(nn.Conv2d):
    """The same with TensorFlow's padding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high, wide = (
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            for size, stride, kernel in zip(x.shape[2:], self.stride, self.kernel_size, strict=True)
        )
        x = nn.functional.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return nn.functional.conv2d(x, self.weight.tanh(), self.bias, self.stride)


class Positive(nn.Module):
    """A linear function with positive weights, in a module of its own."""

    def __init__(self, reads: int, writes: int) -> None:
        super().__init__()
        self.raw, self.gain = nn.Parameter(torch.randn(writes, reads)), nn.Parameter(torch.ones(writes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.gain * self.raw.exp())


FOLDED: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "standardized": (lambda: Standardized(3, 8, 3, 2, 1), lambda: Positive(8, 5)),
    "grouped": (lambda: Standardized(3, 9, 3, padding=1, groups=3, bias=False), lambda: Positive(9, 5)),
    "same padding": (lambda: SamePadded(3, 8, 3, stride=2), lambda: Positive(8, 5)),
}


@pytest.mark.parametrize("name", FOLDED)
def test_weights_that_a_layer_computes_of_its_own_tensors_are_stored(name: str) -> None:
    torch.manual_seed(0)
    first, last = (make() for make in FOLDED[name])
    model = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()
    model.first = [first]  # type: ignore[assignment]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    plain, notes = plain_network(model)
    assert [note.partition(" was folded")[0] for note in notes] == [
        f"0.weight: what the forward of {type(first).__name__} computes",
        "4.weight: what the forward of Positive computes",
    ]
    for size in (8, 9, 11):
        inputs = torch.randn(1, 3, size, size)
        torch.testing.assert_close(plain(inputs), model(inputs))
    assert isinstance(plain[0], nn.Conv2d)  # type: ignore[index]
    assert plain.first[0] is plain[0]  # type: ignore[index]
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert [type(layer) for layer in model] == [type(first), nn.ReLU, nn.AdaptiveAvgPool2d, nn.Flatten, type(last)]
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    # The first layer of all can't lose single channels in groups.
    assert [group.name for group in find_groups(plain, INPUTS).groups] == ([] if name == "grouped" else ["0"])
    assert not find_groups(model, INPUTS).groups


class Dynamic(Standardized):
    """A weight that depends on the input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.weight * x.mean(), self.bias)


class Noisy(Standardized):
    """A weight with noise in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(self.weight) if self.training else 0.0
        return nn.functional.conv2d(x, self.weight * 2.0 + noise, self.bias)


class Followed(Standardized):
    """More than the layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


@pytest.mark.parametrize("kind", [Dynamic, Noisy, Followed])
def test_a_layer_that_is_more_than_a_computed_weight_stays(kind: type[nn.Module]) -> None:
    plain, notes = plain_network(nn.Sequential(kind(3, 8, 3)).eval())
    assert (type(plain[0]), notes) == (kind, [])  # type: ignore[index]


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "OptimizedModule": lambda model: torch.compile(model, backend="eager"),
    "part": lambda model: nn.Sequential(torch.compile(model[:3], backend="eager"), nn.DataParallel(model[3:])),
    "twice": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_are_taken_off(name: str) -> None:
    inside = network()
    plain, (note,) = plain_network(WRAPPED[name](inside))
    assert "is used; wrap or compile the result again" in note
    torch.testing.assert_close(plain(INPUTS), inside(INPUTS))
    assert not {type(module).__name__ for module in plain.modules()} & {"DataParallel", "AveragedModel", "OptimizedModule"}
    assert not {id(tensor) for tensor in plain.parameters()} & {id(tensor) for tensor in inside.parameters()}
    assert [group.size for group in ChannelMask(plain, INPUTS).groups.groups] == [8, 6]


def test_a_plain_network_stays_as_it_is() -> None:
    plain, notes = plain_network(network())
    assert not notes
    assert list(plain.state_dict()) == list(network().state_dict())


def test_frozen_groups_name_layers_that_cannot_be_followed() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.second(self.first(x)), self.first.weight)

    reasons = {group.name: group.reason for group in find_groups(Shared(), torch.randn(1, 4)).frozen}
    told = "the network itself: shares its weight with a place without channels, at `return nn.functional.linear("
    assert reasons["second"].startswith(told)
    line = inspect.getsourcelines(Shared.forward)[1] + 1
    assert reasons["second"].endswith(f"` in test_plain_network.py:{line}")
