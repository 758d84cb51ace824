"""Make optimizers, and save and restore their state as plain tensors and numbers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from evaluators.training.errors import TrainingError
from evaluators.training.imported import require_callable
from evaluators.training.parameter_groups import parameter_groups
from spaces.errors import error_line
from spaces.registry import is_import_path, resolve_named, suggestion

BETA2 = 0.999
"""Decay of the second moment of Adam and AdamW, as in their papers."""
OPTIMIZERS = ("sgd", "adam", "adamw")
Number = int | float | bool


@dataclass(frozen=True)
class OptimizerSettings:
    """Options of the optimizer.

    Attributes:
        name: ``sgd``, ``adam`` (Kingma, Ba 2015, arXiv 1412.6980), ``adamw`` (Loshchilov, Hutter 2019, arXiv 1711.05101), or
            the import path of an optimizer's class, such as ``torch.optim.NAdam``.
        lr: Highest learning rate of the schedule.
        momentum: Momentum of SGD; the first beta of Adam and AdamW.
        weight_decay: L2 coefficient (SGD and Adam), decoupled decay (AdamW).
        nesterov: Nesterov momentum, SGD only.
        decay_norms: Whether weight decay also acts on biases and normalization weights, as in the ResNet papers.
        no_decay: Parameters that weight decay spares besides: name patterns, and the word ``positions`` for tables of positions
            and class tokens.
        rates: Factors of the learning rate by name pattern, such as ``{"classifier": 10.0}``; the first that matches holds.
        arguments: Keyword arguments of a class at an import path, which also gets ``lr``, and ``weight_decay`` where it takes
            one.
        fused: Whether all weights are updated by one kernel, which rounds otherwise; None for on GPUs alone. Not for a class at
            an import path.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: Literal["sgd", "adam", "adamw"] | str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    decay_norms: bool = True
    no_decay: tuple[str, ...] | None = None
    rates: Mapping[str, float] | None = None
    arguments: Mapping[str, Any] | None = None
    fused: bool | None = None

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if is_import_path(self.name):
            require_optimizer(self.name)
        elif self.name not in OPTIMIZERS:
            known = suggestion(self.name, OPTIMIZERS).replace("known:", "expected")
            raise ValueError(f"name: {known}, or an import path, got {self.name!r}")
        elif self.arguments is not None:
            raise ValueError(f"arguments: expected the import path of an optimizer as name with them, got {self.name}")
        if not self.lr > 0:
            raise ValueError(f"lr: expected a number above 0, got {self.lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: expected a number from 0 to below 1, got {self.momentum}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay: expected a number of at least 0, got {self.weight_decay}")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov: expected name sgd and a momentum above 0 with it")
        if self.fused is not None and is_import_path(self.name):
            raise ValueError(f"fused: expected name {', '.join(OPTIMIZERS)} with it, got {self.name}; put it into arguments")
        for pattern, factor in (self.rates or {}).items():
            if not 0 < factor < float("inf"):
                raise ValueError(f"rates.{pattern}: expected a factor above 0, got {factor}")


def require_optimizer(path: str) -> None:
    """Raise if there is no optimizer at an import path that a training can use.

    Raises:
        ValueError: There is none, or its step calls the loss again; the message begins with ``name``.
    """
    found = require_callable(path)
    if not isinstance(found, type) or not issubclass(found, torch.optim.Optimizer):
        raise ValueError(f"name: expected a class that derives from torch.optim.Optimizer at {path!r}, got {found!r:.60}")
    closure = inspect.signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(f"name: expected an optimizer that computes the loss once a step, {path} calls it again; take another")


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Return the optimizer over the parameters of ``model`` that require gradients.

    Raises:
        TrainingError: A class of one's own can't be made from its arguments.
        UnsupportedModelError: A name pattern matches no parameter.
    """
    groups = parameter_groups(model, settings.decay_norms, settings.no_decay or (), settings.rates or {})
    if is_import_path(settings.name):
        return _own_optimizer(groups, settings)
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": _fused(model, settings)}
    try:
        if settings.name != "sgd":
            kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
            return kind(groups, betas=(settings.momentum, BETA2), **common)
        return torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.nesterov, **common)
    except RuntimeError as error:
        raise TrainingError(f"optimizer.fused: {error_line(error)}; leave it out") from error


def _fused(model: nn.Module, settings: OptimizerSettings) -> bool | None:
    """Return True for an update by one kernel; None leaves it to torch, which has none on CPUs then."""
    if settings.fused is not None:
        return settings.fused
    on_gpu = all(parameter.is_cuda and parameter.is_floating_point() for parameter in model.parameters())
    return on_gpu or None


def _own_optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> torch.optim.Optimizer:
    kind, given = resolve_named(settings.name), {"lr": settings.lr, **(settings.arguments or {})}
    if "weight_decay" in inspect.signature(kind).parameters:
        given = {"weight_decay": settings.weight_decay, **given}
    try:
        optimizer: torch.optim.Optimizer = kind(groups, **given)
    except Exception as error:
        raise TrainingError(
            f"optimizer: {settings.name} called with {given} failed: {error_line(error)}; check optimizer.arguments"
        ) from error
    return optimizer


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of the optimizer's state, named ``POSITION.ENTRY`` by the parameter's position."""
    tensors: dict[str, Tensor] = {}
    for position, parameter in enumerate(_parameters(optimizer)):
        for entry, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{position}.{entry}"] = value.detach()
    return tensors


def optimizer_numbers(optimizer: torch.optim.Optimizer) -> dict[str, Number]:
    """Return the numbers of the optimizer's state, which some optimizers count their steps in.

    They are named as the tensors are; those that belong to a group of parameters are named ``group.GROUP.ENTRY``, without the
    learning rate, which the training sets, and without the kernel, which the device decides.

    Raises:
        TrainingError: The state of a parameter holds something else than tensors, numbers and None.
    """
    numbers: dict[str, Number] = {}
    for position, parameter in enumerate(_parameters(optimizer)):
        for entry, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Number):
                numbers[f"{position}.{entry}"] = value
            elif value is not None and not isinstance(value, Tensor):
                raise TrainingError(
                    f"optimizer: {type(optimizer).__name__} keeps {entry!r} of type {type(value).__name__}; expected tensors "
                    "and numbers, which a checkpoint can hold"
                )
    for place, group in enumerate(optimizer.param_groups):
        numbers |= {
            f"group.{place}.{entry}": value
            for entry, value in group.items()
            if isinstance(value, Number) and entry not in ("lr", "rate", "fused")
        }
    return numbers


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Number] | None = None
) -> None:
    """Restore :func:`optimizer_tensors`, in the memory layout of the parameters, and :func:`optimizer_numbers`.

    The last bits of an element-wise update may depend on the layout.
    """
    parameters = _parameters(optimizer)
    for name, value in tensors.items():
        position, _, entry = name.partition(".")
        parameter = parameters[int(position)]
        if value.shape == parameter.shape and entry != "step":
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        elif entry == "step" and optimizer.defaults.get("fused"):
            # One kernel reads the number of steps where it runs.
            value = value.to(parameter.device, torch.float32)
        optimizer.state[parameter][entry] = value
    for name, number in (numbers or {}).items():
        place, _, entry = name.removeprefix("group.").partition(".")
        if name.startswith("group."):
            optimizer.param_groups[int(place)][entry] = number
        else:
            optimizer.state[parameters[int(place)]][entry] = number


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Return the names, in ``model``, of the optimizer's parameters, by position."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in _parameters(optimizer)]


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
