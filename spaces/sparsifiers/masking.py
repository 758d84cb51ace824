"""Masks of single training steps: masked weights take no part in a step and are restored after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GroupTie:
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
    ties: tuple[GroupTie, ...]


class Masking(ABC):
    """Draws masks for all tensors of a network, applies them, and takes back what a step did to masked weights.

    Args:
        tensors: What is masked.
    """

    def __init__(self, tensors: Sequence[MaskedTensor]) -> None:
        self._optimizer: torch.optim.Optimizer | None = None
        self._device = tensors[0].tensor.device if tensors else torch.device("cpu")
        self._p = torch.ones(0)

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Receive the optimizer whose moments are restored with the masked weights."""
        self._optimizer = optimizer

    @abstractmethod
    def set(self, p: np.ndarray) -> None:
        """Set the keep-probabilities, float64 of shape ``(groups,)``; at 0, a group's weights and moments are zeroed."""

    @abstractmethod
    def apply(self, generator: torch.Generator) -> None:
        """Draw masks, and set masked weights to 0 for a step."""

    @abstractmethod
    def hold_moments(self) -> None:
        """Remember the moments of masked weights, before the optimizer's step."""

    @abstractmethod
    def restore(self) -> None:
        """Restore masked weights and their moments to their state before the step."""

    def _take(self, p: np.ndarray) -> None:
        """Keep the probabilities of all groups, and behind them a 1 for what belongs to none."""
        self._p = torch.from_numpy(np.append(p, 1.0)).to(self._device, torch.float32)

    def _present(self, generator: torch.Generator) -> Tensor:
        """Draw which groups take part: 1 or 0 for each, float32 of shape ``(groups + 1,)``."""
        return torch.rand(self._p.shape, generator=generator, device=self._device).lt_(self._p)

    def _moments_of(self, weight: Tensor) -> list[Tensor]:
        if self._optimizer is None:
            return []
        state = self._optimizer.state.get(weight, {})
        return [value for value in state.values() if isinstance(value, Tensor) and value.shape == weight.shape]
