"""Make optimizers, and save and restore their state as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

BETA2 = 0.999
"""Decay of the second moment of Adam and AdamW, as in their papers."""


@dataclass(frozen=True)
class OptimizerSettings:
    """Options of the optimizer.

    Attributes:
        name: ``sgd``, ``adam`` (Kingma, Ba 2015, arXiv 1412.6980) or ``adamw`` (Loshchilov, Hutter 2019, arXiv 1711.05101).
        lr: Highest learning rate of the schedule.
        momentum: Momentum of SGD; the first beta of Adam and AdamW.
        weight_decay: L2 coefficient (SGD and Adam), decoupled decay (AdamW).
        nesterov: Nesterov momentum, SGD only.
        decay_norms: Whether weight decay also acts on biases and normalization weights, as in the ResNet papers.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    decay_norms: bool = True

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if not self.lr > 0:
            raise ValueError(f"lr: expected a number above 0, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: expected a number from 0 to below 1, got {self.momentum}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay: expected a number of at least 0, got {self.weight_decay}")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov: expected name sgd and a momentum above 0 with it")


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters of ``model`` that require gradients."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if settings.decay_norms or parameter.ndim > 1]
    kept = [parameter for parameter in trainable if not settings.decay_norms and parameter.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}] if decayed else []
    if kept:
        groups.append({"params": kept, "weight_decay": 0.0})
    if settings.name != "sgd":
        kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
        return kind(groups, lr=settings.lr, betas=(settings.momentum, BETA2), weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state, named ``POSITION.ENTRY`` by the parameter's position."""
    tensors: dict[str, Tensor] = {}
    for position, parameter in enumerate(_parameters(optimizer)):
        for entry, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{position}.{entry}"] = value.detach()
    return tensors


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state returned by :func:`optimizer_tensors`, in the memory layout of the parameters.

    The last bits of an element-wise update may depend on the layout.
    """
    parameters = _parameters(optimizer)
    for name, value in tensors.items():
        position, _, entry = name.partition(".")
        parameter = parameters[int(position)]
        if value.shape == parameter.shape and entry != "step":
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        optimizer.state[parameter][entry] = value


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Return the names, in ``model``, of the optimizer's parameters, by position."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in _parameters(optimizer)]


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
