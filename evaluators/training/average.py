"""An average of a network's weights over the steps of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@dataclass(frozen=True)
class EmaSettings:
    """Options of the exponential moving average of the weights (Tarvainen, Valpola 2017, arXiv 1703.01780).

    Attributes:
        decay: Share of the average that stays in a step, below 1. Of the first steps less stays, ``(1 + step) / (10 + step)``
            at most, as in TensorFlow's ``ExponentialMovingAverage``, so that a short training forgets where it began.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    decay: float = 0.999

    def __post_init__(self) -> None:
        """Check the range of the option.

        Raises:
            ValueError: It is out of range; the message begins with its name.
        """
        if not 0 < self.decay < 1:
            raise ValueError(f"decay: expected a number above 0 and below 1, got {self.decay}")


class Average:
    """The moving average of parameters and of floating-point buffers; buffers of integers are the network's own.

    Args:
        model: The network, with which the average begins.
        settings: The decay.
    """

    def __init__(self, model: nn.Module, settings: EmaSettings) -> None:
        """Begin with the weights as they are."""
        self._decay = settings.decay
        self._tensors = {name: tensor.detach().clone() for name, tensor in _averaged(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights behind a step, from 0, into the average."""
        decay = min(self._decay, (1 + step) / (10 + step))
        current = _averaged(model)
        averages = [self._tensors[name] for name in current]
        get_ema_multi_avg_fn(decay)(averages, [tensor.detach() for tensor in current.values()], 0)  # type: ignore[no-untyped-call]

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The averages by the names of the network's state; live, not copies."""
        return self._tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the :attr:`tensors` of a saved average."""
        for name, tensor in tensors.items():
            self._tensors[name].copy_(tensor)

    def put_into(self, model: nn.Module) -> None:
        """Give ``model`` the averaged weights."""
        model.load_state_dict(self._tensors, strict=False)


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


@contextmanager
def averaged(model: nn.Module, average: Average | None) -> Iterator[None]:
    """Give ``model`` the averaged weights inside the context, and its own ones back afterwards; None does nothing."""
    if average is None:
        yield
        return
    own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    try:
        average.put_into(model)
        yield
    finally:
        model.load_state_dict(own)
