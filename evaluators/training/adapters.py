"""Low-rank adapters: a training that changes weights by products of two thin matrices, which become part of them at its end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from evaluators.task import Task
from evaluators.training.errors import TrainingError
from evaluators.training.parameter_groups import only_trained
from spaces.patterns import first_match, require_matches

ADAPTED: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Kinds of layers that can have an adapter."""
_PLACE = ".parametrizations.weight."


@dataclass(frozen=True)
class AdapterSettings:
    """Options of low-rank adapters (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
        rank: Most columns of an adapter's matrices; a layer with fewer outputs, or fewer weights of an output, has as many as
            it has of these.
        alpha: Factor of what an adapter adds, over its number of columns.
        layers: Name patterns of the linear layers and convolutions that have one; null for all that would be trained.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    rank: int = 8
    alpha: float = 16.0
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if self.rank < 1:
            raise ValueError(f"rank: expected at least 1, got {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha: expected a number above 0, got {self.alpha}")
        if self.layers is not None and not self.layers:
            raise ValueError("layers: expected name patterns, got an empty list; null takes all layers")


class LowRank(nn.Module):
    """The summand of a weight of shape ``(out, ...)``: ``alpha / rank`` times a product of two matrices, at first zero.

    Args:
        weight: The weight.
        settings: Rank and factor.
        generator: Draws the matrix that inputs meet first, as the source does.
    """

    def __init__(self, weight: Tensor, settings: AdapterSettings, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight.shape[0], weight[0].numel()
        rank = min(settings.rank, outputs, inputs)
        bound = 1.0 / math.sqrt(inputs)
        drawn = torch.rand(rank, inputs, generator=generator) * (2 * bound) - bound
        self.down = nn.Parameter(drawn.to(weight))
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))
        self.scale: Tensor
        self.register_buffer("scale", weight.new_full((), settings.alpha / rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the sum."""
        with torch.autocast(weight.device.type, enabled=False):
            return _added(weight, self.up, self.down, self.scale)


@contextmanager
def adapted(
    model: nn.Module, settings: AdapterSettings, parts: Sequence[str] | None, task: Task, device: torch.device, seed: int
) -> Iterator[None]:
    """Let adapters alone be trained inside the context, beside some parts, and add them to the weights at its end.

    Afterwards parameters have the names, order and places that they had.

    Args:
        model: The network, on ``device``.
        settings: Which layers have one, and how.
        parts: What else is trained, as in :func:`.only_trained`; None for nothing.
        task: Gives the inputs on which the head is found.
        device: Where the network runs.
        seed: Seed of the first values.

    Raises:
        TrainingError: A layer can't have one, or none can.
        UnsupportedModelError: A pattern matches no layer or parameter.
    """
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    orders: dict[str, list[str]] = {}
    try:
        with only_trained(model, parts, task, device):
            if parts is None:
                model.requires_grad_(False)
            layers = _layers(model, settings, {id(parameter) for parameter, required in before if required})
            generator = torch.Generator().manual_seed(seed)
            for name, layer in layers.items():
                order = list(layer._parameters)
                parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, settings, generator))
                orders[name] = order
            yield
    finally:
        for name, order in orders.items():
            _merge(model.get_submodule(name), order)
        for parameter, required in before:
            parameter.requires_grad_(required)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a network whose layers have adapters as that of one without, their sums in place of the weights."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, place, part = name.partition(_PLACE)
        if not place:
            found[name] = tensor
        elif part == "original":
            up, down, scale = (state[f"{layer}{_PLACE}0.{one}"] for one in ("up", "down", "scale"))
            found[f"{layer}.weight"] = _added(tensor, up, down, scale)
    return found


def has_adapters(state: Mapping[str, Tensor]) -> bool:
    """Return True if a state is that of a network with adapters."""
    return any(_PLACE in name for name in state)


def _layers(model: nn.Module, settings: AdapterSettings, trainable: Collection[int]) -> dict[str, nn.Linear]:
    """Return the layers that get an adapter, by name.

    Args:
        model: The network, of which only parts that are trained besides require gradients.
        settings: Which layers.
        trainable: Identities of the parameters that would be trained without adapters.
    """
    every = {name: layer for name, layer in model.named_modules() if isinstance(layer, ADAPTED)}
    if settings.layers is not None:
        require_matches(settings.layers, every)
    holders = Counter(id(one) for module in model.modules() for one in module.parameters(recurse=False))
    found: dict[str, nn.Linear] = {}
    for name, layer in every.items():
        weight = layer._parameters.get("weight")
        able = weight is not None and weight.is_floating_point() and holders[id(weight)] == 1 and not weight.requires_grad
        if settings.layers is None:
            if able and id(weight) in trainable:
                found[name] = layer  # type: ignore[assignment]
        elif first_match(name, settings.layers) is not None:
            if not able:
                raise TrainingError(
                    f"adapters: expected a weight of {name}'s own, that nothing else trains; it is computed, shared with "
                    "another layer, or trained itself by train_only: leave the layer out of layers"
                )
            found[name] = layer  # type: ignore[assignment]
    if not found:
        raise TrainingError(
            f"adapters: {type(model).__name__} has no linear layer or convolution that could have one; remove them here"
        )
    return found


@torch.no_grad()
def _merge(layer: nn.Module, order: list[str]) -> None:
    """Add the adapter to the weight, and put the parameters in their order."""
    steps: Any = layer.get_submodule("parametrizations.weight")
    steps.original.copy_(steps[0](steps.original))  # The same tensor stays the parameter.
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    # The weight comes last else, and optimizers know parameters by their places.
    parameters = {name: layer._parameters[name] for name in order}
    for name in order:
        delattr(layer, name)
    for name, parameter in parameters.items():
        layer.register_parameter(name, parameter)


def _added(weight: Tensor, up: Tensor, down: Tensor, scale: Tensor) -> Tensor:
    return weight + (scale * (up @ down)).view(weight.shape)
