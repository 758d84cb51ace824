"""Hooks for a while."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spaces.execution.hooks import temporary_hooks


def test_hooks_are_there_inside_and_gone_after_an_error() -> None:
    layers, seen = [nn.Linear(2, 2), nn.Linear(2, 2)], []
    hooks = (layer.register_forward_hook(lambda *_: seen.append(1)) for layer in layers)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), temporary_hooks(hooks):
        layers[1](layers[0](torch.zeros(1, 2)).T)
    layers[0](torch.zeros(1, 2))
    assert len(seen) == 1
    assert not any(layer._forward_hooks for layer in layers)


def test_an_error_while_hooks_are_registered_leaves_none() -> None:
    layer = nn.Linear(2, 2)

    def hooks():
        yield layer.register_forward_hook(lambda *_: None)
        raise RuntimeError("no second one")

    with pytest.raises(RuntimeError, match="no second one"), temporary_hooks(hooks()):
        pass
    assert not layer._forward_hooks
