"""Random masking: one mask per weight of a tensor, drawn per weight or per group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from spaces.sparsifiers.masking import GroupTie, MaskedTensor, Masking

Draw = Literal["weight", "group"]


@dataclass
class _Active:
    """A tensor of which something is masked, with what its masks are drawn from.

    Attributes:
        tensor: The weights.
        tie: The groups whose weights sit out at random, None where there are none.
        certain: 1 where the groups are there, else 0, of a shape that broadcasts to the tensor's.
        chance: The chance to take part, of such a shape.
        mask: The mask of the step.
    """

    tensor: nn.Parameter
    tie: GroupTie | None
    certain: Tensor
    chance: Tensor
    mask: Tensor


class RandomMasking(Masking):
    """Masks over all weights, whatever their groups: one draw per weight, or per group.

    For a mask ``m`` of zeros and ones, ``w - w m`` is what is held, and ``w m + held`` gives back either exactly; so it takes
    a few operations over lists of tensors, whatever their number.

    Args:
        tensors: What is masked.
        draw: One draw per weight, or per group.
    """

    def __init__(self, tensors: Sequence[MaskedTensor], draw: Draw) -> None:
        super().__init__(tensors)
        self._tensors = list(tensors)
        self._draw = draw
        self._before: np.ndarray | None = None
        # Groups of a layer follow each other: of every tie the first and the last one say whether it is concerned.
        self._blocks = [[_block(tie) for tie in one.ties] for one in self._tensors]
        self._found: dict[int, _Active] = {}
        self._active: list[_Active] = []
        self._masks: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._held: list[Tensor] = []
        self._moments: list[Tensor] = []
        self._held_moments: list[Tensor] = []
        self._moment_masks: list[Tensor] = []

    @torch.no_grad()
    def set(self, p: np.ndarray) -> None:
        """Set the keep-probabilities, float64 of shape ``(groups,)``; groups at 0 are zeroed with their moments."""
        self._take(p)
        news = (p < 1.0) if self._before is None else (p == 0.0) & (self._before > 0.0)
        self._before = p.copy()
        if news.any():
            self._activate(news)
        for one in self._active:
            if one.tie is not None:
                one.chance = self._p[one.tie.groups] * one.certain

    def _activate(self, news: np.ndarray) -> None:
        """Look again at the tensors of the groups that there is something new about."""
        there = (self._p > 0.0).float()
        for place, (one, blocks) in enumerate(zip(self._tensors, self._blocks, strict=True)):
            if not any(news[first:last].any() for first, last in blocks):
                continue
            tie = next((tie for tie in one.ties if tie.drawn), None)
            certain = _product([there[other.groups] for other in one.ties])
            whole = bool((certain == 1.0).all())
            if whole and (tie is None or bool((self._p[tie.groups] == 1.0).all())):
                continue
            if not whole:
                one.tensor.mul_(certain)
                for moment in self._moments_of(one.tensor):
                    moment.mul_(certain)
            known = self._found.get(place)
            mask = torch.empty_like(one.tensor, requires_grad=False) if known is None else known.mask
            self._found[place] = _Active(one.tensor, tie, certain, certain, mask.copy_(certain.expand_as(mask)))
        self._active = [self._found[place] for place in sorted(self._found)]
        self._masks = [one.mask for one in self._active]
        self._weights = [one.tensor.detach() for one in self._active]

    @torch.no_grad()
    def apply(self, generator: torch.Generator) -> None:
        """Draw the masks of a step and set masked weights to 0."""
        if not self._weights:
            return
        if self._draw == "group":
            drawn = self._present(generator)
            for one in self._active:
                if one.tie is not None:
                    one.mask.copy_((drawn[one.tie.groups] * one.certain).expand_as(one.mask))
        else:
            for one in self._active:
                if one.tie is not None:
                    one.mask.uniform_(generator=generator).lt_(one.chance)
        self._held = [weight.clone() for weight in self._weights]
        torch._foreach_mul_(self._weights, self._masks)
        torch._foreach_sub_(self._held, self._weights)

    @torch.no_grad()
    def hold_moments(self) -> None:
        """Remember the moments of masked weights, before the optimizer's step."""
        pairs = [
            (moment, mask)
            for one, mask in zip(self._active, self._masks, strict=True)
            for moment in self._moments_of(one.tensor)
        ]
        self._moments, self._moment_masks = [moment for moment, _ in pairs], [mask for _, mask in pairs]
        if pairs:
            taking_part = torch._foreach_mul(self._moments, self._moment_masks)
            self._held_moments = list(torch._foreach_sub(self._moments, taking_part))

    @torch.no_grad()
    def restore(self) -> None:
        """Restore masked weights and their moments to their state before the step."""
        if not self._weights:
            return
        torch._foreach_mul_(self._weights, self._masks)
        torch._foreach_add_(self._weights, self._held)
        if self._moments:
            torch._foreach_mul_(self._moments, self._moment_masks)
            torch._foreach_add_(self._moments, self._held_moments)
            return
        # Moments that the step has made begin with what took part in it.
        for one in self._active:
            for moment in self._moments_of(one.tensor):
                moment.mul_(one.mask)


def _product(factors: Sequence[Tensor]) -> Tensor:
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product


def _block(tie: GroupTie) -> tuple[int, int]:
    groups = tie.groups[tie.groups >= 0]
    return (int(groups.min()), int(groups.max()) + 1) if len(groups) else (0, 0)
