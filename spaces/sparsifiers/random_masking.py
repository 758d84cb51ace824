"""Random masking: weights that take no part in a step, and are afterwards as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

Draw = Literal["weight", "group"]


@dataclass(frozen=True)
class Tie:
    """The groups that the weights of a tensor belong to, along some of its dimensions.

    Attributes:
        groups: The group of every weight (-1: always takes part), int64, of a shape that broadcasts to the tensor's.
        drawn: Whether the weights sit out at random; else they only go with their group.
    """

    groups: Tensor
    drawn: bool


@dataclass(frozen=True)
class MaskedTensor:
    """A tensor of weights with its ties: a filter is written by one group and reads others."""

    tensor: nn.Parameter
    ties: tuple[Tie, ...]


class RandomMasking:
    """Draws masks for all tensors of a network, applies them, and takes back what a step did to masked weights.

    For a mask ``m`` of zeros and ones, ``w - w m`` is what is held, and ``w m + held`` gives back either exactly; so it takes
    a few operations over lists of tensors, whatever their number.

    Args:
        tensors: What is masked.
        draw: One draw per weight, or per group.
    """

    def __init__(self, tensors: Sequence[MaskedTensor], draw: Draw) -> None:
        self._tensors = list(tensors)
        self._draw = draw
        self._optimizer: torch.optim.Optimizer | None = None
        self._chances: list[tuple[MaskedTensor, Tensor]] = []
        self._masks: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._held: list[Tensor] = []
        self._moments: list[Tensor] = []
        self._held_moments: list[Tensor] = []
        self._moment_masks: list[Tensor] = []

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Know whose moments masked weights have."""
        self._optimizer = optimizer

    def set(self, p: np.ndarray) -> None:
        """Take over the probabilities of all groups; weights of groups at 0 become 0, and their moments."""
        if not self._tensors:
            return
        device = self._tensors[0].tensor.device
        self._p = torch.from_numpy(np.append(p, 1.0)).to(device, torch.float32)
        self._chances, self._masks = [], []
        with torch.no_grad():
            for one in self._tensors:
                chance = _product([self._chance(tie) for tie in one.ties])
                if bool((chance == 1.0).all()):
                    continue
                certain = (chance > 0.0).to(one.tensor.dtype)
                if bool((certain == 0.0).any()):
                    one.tensor.mul_(certain)
                    for moment in self._moments_of(one.tensor):
                        moment.mul_(certain)
                self._chances.append((one, chance))
                self._masks.append(torch.empty_like(one.tensor, requires_grad=False).copy_(certain.expand_as(one.tensor)))
        self._weights = [one.tensor.detach() for one, _ in self._chances]

    @torch.no_grad()
    def apply(self, generator: torch.Generator) -> None:
        """Draw masks, and set masked weights to 0 for a step."""
        if not self._weights:
            return
        if self._draw == "group":
            drawn = torch.rand(self._p.shape, generator=generator, device=self._p.device).lt_(self._p)
            for (one, _), mask in zip(self._chances, self._masks, strict=True):
                certain = [drawn[tie.groups] if tie.drawn else self._p[tie.groups] > 0.0 for tie in one.ties]
                mask.copy_(_product(certain).expand_as(mask))
        else:
            for (one, chance), mask in zip(self._chances, self._masks, strict=True):
                if any(tie.drawn for tie in one.ties):
                    mask.uniform_(generator=generator).lt_(chance)
        self._held = [weight.clone() for weight in self._weights]
        torch._foreach_mul_(self._weights, self._masks)
        torch._foreach_sub_(self._held, self._weights)

    @torch.no_grad()
    def hold_moments(self) -> None:
        """Remember the moments of masked weights, before the optimizer's step."""
        pairs = [
            (moment, mask)
            for weight, mask in zip((one.tensor for one, _ in self._chances), self._masks, strict=True)
            for moment in self._moments_of(weight)
        ]
        self._moments, self._moment_masks = [moment for moment, _ in pairs], [mask for _, mask in pairs]
        if pairs:
            taking_part = torch._foreach_mul(self._moments, self._moment_masks)
            self._held_moments = list(torch._foreach_sub(self._moments, taking_part))

    @torch.no_grad()
    def restore(self) -> None:
        """Put back masked weights and their moments as they were before the step."""
        if not self._weights:
            return
        torch._foreach_mul_(self._weights, self._masks)
        torch._foreach_add_(self._weights, self._held)
        if self._moments:
            torch._foreach_mul_(self._moments, self._moment_masks)
            torch._foreach_add_(self._moments, self._held_moments)
            return
        # Moments that the step has made begin with what took part in it.
        for (one, _), mask in zip(self._chances, self._masks, strict=True):
            for moment in self._moments_of(one.tensor):
                moment.mul_(mask)

    def _chance(self, tie: Tie) -> Tensor:
        chance = self._p[tie.groups]
        return chance if tie.drawn else (chance > 0.0).float()

    def _moments_of(self, weight: Tensor) -> list[Tensor]:
        if self._optimizer is None:
            return []
        state = self._optimizer.state.get(weight, {})
        return [value for value in state.values() if isinstance(value, Tensor) and value.shape == weight.shape]


def _product(factors: Sequence[Tensor]) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product
