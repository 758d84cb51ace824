"""Shape inference: run a network once and return the shape of every layer whose latency is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from spaces.execution.batch import Nested
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, call
from spaces.execution.hooks import first_tensor, temporary_hooks
from spaces.layers.layer_kind import LayerKind, kind_of
from spaces.layers.shapes import LayerShape


def layer_shapes(model: nn.Module, inputs: Nested, forward: Forward = call) -> dict[str, LayerShape]:
    """Return the shape of every layer whose kind has one, and that ``forward`` runs as a module, by name, in order of use.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        forward: How ``model`` is run on ``inputs``.
    """
    found: dict[str, LayerShape] = {}
    calls: dict[str, int] = {}

    def look(name: str, kind: LayerKind) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            inputs = first_tensor(arguments, keywords)
            if inputs is not None:
                shape = found.get(name) or kind.shape(module, inputs)
                if shape is not None:
                    found[name] = shape
                    calls[name] = calls.get(name, 0) + 1

        return hook

    layers = [(name, module, kind) for name, module in model.named_modules() if (kind := kind_of(module)) is not None]
    hooks = (module.register_forward_hook(look(name, kind), with_kwargs=True) for name, module, kind in layers)
    with temporary_hooks(hooks), evaluation_mode(model), torch.no_grad():
        forward(model, inputs)
    return {name: replace(shape, calls=calls[name]) for name, shape in found.items()}
