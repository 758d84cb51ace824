"""Groups of a network's parameters: which of them are trained, decay, and at which share of the learning rate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.task import Task
from evaluators.training.errors import TrainingError
from spaces.execution.batch import to_device
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.hooks import temporary_hooks
from spaces.patterns import first_match, require_matches, value_of

POSITIONS = "positions"
"""Word of ``no_decay`` for tables of positions and for tokens of the network's own."""
PARTS = ("norms", "biases", "head")
"""Words of ``train_only``."""
_POSITION_NAMES = re.compile(
    r"(^|[._])(pos|position|positional|positions|wpe)([._]|$)|relative_position|(cls|class|dist|mask|register|reg)_tokens?(\.|$)"
)


def parameter_groups(
    model: nn.Module, decay_norms: bool, no_decay: Sequence[str], rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return the parameters that require gradients in groups for an optimizer, those that decay first.

    A group without decay has ``weight_decay`` 0.0; one at another rate than the training's has its factor as ``rate``.

    Args:
        model: The network.
        decay_norms: False to spare parameters of one dimension and fewer, which are biases and weights of normalizations.
        no_decay: Parameters that are spared besides: name patterns, or :data:`POSITIONS`.
        rates: Factors of the learning rate, by name pattern.

    Raises:
        UnsupportedModelError: A pattern matches no parameter.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    require_named(model, no_decay, rates, ())
    patterns = [pattern for pattern in no_decay if pattern != POSITIONS]
    spared = _named_spared(model) if POSITIONS in no_decay else set()
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for decays in (True, False):
        for name, parameter in trainable.items():
            keeps = (not decay_norms and parameter.ndim <= 1) or first_match(name, patterns) is not None or name in spared
            if keeps is not decays:
                groups.setdefault((decays, value_of(name, rates, 1.0)), []).append(parameter)
    return [
        {"params": parameters, **({} if decays else {"weight_decay": 0.0}), **({} if rate == 1.0 else {"rate": rate})}
        for (decays, rate), parameters in groups.items()
    ]


def require_named(model: nn.Module, no_decay: Sequence[str], rates: Mapping[str, float], train_only: Sequence[str]) -> None:
    """Raise if a name pattern among the options matches no parameter of ``model``.

    Raises:
        UnsupportedModelError: One does not; the message has the nearest names.
    """
    words = {POSITIONS, *PARTS}
    patterns = [pattern for pattern in (*no_decay, *rates, *train_only) if pattern not in words]
    require_matches(patterns, (name for name, _ in model.named_parameters(remove_duplicate=False)), "parameter")


def _named_spared(model: nn.Module) -> set[str]:
    """Return the parameters named after positions or tokens."""
    return {name for name, _ in model.named_parameters() if _POSITION_NAMES.search(name)}


@contextmanager
def only_trained(model: nn.Module, parts: Sequence[str] | None, task: Task, device: torch.device) -> Iterator[None]:
    """Let only some parameters of ``model`` require gradients inside the context; None changes nothing.

    Args:
        model: The network, on ``device``.
        parts: Words of :data:`PARTS`, and name patterns of parameters.
        task: Gives the inputs on which the head, the last layer with weights that is called, is found.
        device: Where the network runs.

    Raises:
        TrainingError: The parts have no parameter.
        UnsupportedModelError: A pattern matches no parameter.
    """
    if parts is None:
        yield
        return
    wanted = _parameters_of(model, parts, task, device)
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    if not any(required for parameter, required in before if id(parameter) in wanted):
        raise TrainingError(
            f"train_only: {type(model).__name__} has nothing to train in its {', '.join(parts)}; name layers by patterns"
        )
    try:
        for parameter, required in before:
            parameter.requires_grad_(required and id(parameter) in wanted)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def _parameters_of(model: nn.Module, parts: Sequence[str], task: Task, device: torch.device) -> set[int]:
    """Return the identities of the parameters that the words and patterns mean."""
    require_named(model, (), {}, parts)
    patterns = [part for part in parts if part not in PARTS]
    named = dict(model.named_parameters(remove_duplicate=False))
    found = [parameter for name, parameter in named.items() if first_match(name, patterns) is not None]
    for owner in model.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            bias = name == "bias" or name.endswith("_bias") or name.startswith("bias_")
            if ("biases" in parts and bias) or ("norms" in parts and not bias and parameter.ndim <= 1):
                found.append(parameter)
    if "head" in parts:
        found.extend(_head(model, task, device).parameters(recurse=False))
    return {id(parameter) for parameter in found}


def _head(model: nn.Module, task: Task, device: torch.device) -> nn.Module:
    """Return the last layer with weights of more than one dimension that a forward pass calls."""
    called: list[nn.Module] = []

    def see(module: nn.Module, args: Any) -> None:
        called.append(module)

    layers = [module for module in model.modules() if any(_is_weight(one) for one in module.parameters(recurse=False))]
    with (
        temporary_hooks(layer.register_forward_pre_hook(see) for layer in layers),
        evaluation_mode(model),
        torch.no_grad(),
    ):
        task.forward(model, to_device(task.traced_inputs(), device))
    if not called:
        raise TrainingError(f"train_only: found no head in {type(model).__name__}; name its layers by patterns instead")
    return called[-1]


def _is_weight(parameter: Tensor) -> bool:
    return parameter.ndim > 1
