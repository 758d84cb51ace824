"""Activation checkpointing: intermediate outputs that are computed again in the backward pass, where a network offers it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from evaluators.training.errors import TrainingError
from spaces.errors import error_line

Switch = Callable[[bool], object]


def require_recomputing(model: nn.Module) -> None:
    """Raise for a network that offers no activation checkpointing.

    Raises:
        TrainingError: It offers none.
    """
    if not _switches(model):
        raise TrainingError(
            f"activation_checkpointing: {type(model).__name__} offers none: expected gradient_checkpointing_enable "
            "(transformers) or set_grad_checkpointing (timm) of it or a part of it; set it to false, or split batches by shards"
        )


@contextmanager
def recomputing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Let a network compute its activations again in the backward pass inside the context, if ``wanted``.

    Raises:
        TrainingError: It can't.
    """
    switches = _switches(model) if wanted else []
    try:
        for switch in switches:
            try:
                switch(True)
            except (ValueError, AssertionError, TypeError) as error:
                raise TrainingError(
                    f"activation_checkpointing: {type(model).__name__} can't: {error_line(error)}; set it to false"
                ) from error
        yield
    finally:
        for switch in switches:
            switch(False)


@contextmanager
def running_statistics_kept(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Keep the running statistics of BatchNorm inside the context, a backward pass that calls layers again, if ``wanted``."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)] if wanted else []
    momenta = [layer.momentum for layer in layers]
    counts = [None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone() for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum = momentum
            if count is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(count)


def _method(model: nn.Module, name: str) -> Callable[..., object] | None:
    """Return a method of somebody's network, or None where it has no such method."""
    found = getattr(model, name, None)
    return found if callable(found) else None


def _switches(model: nn.Module) -> list[Switch]:
    """Return what turns checkpointing on and off, of the network or else of its outermost parts that offer it."""
    for word in ("activation", "gradient"):
        # transformers 5 calls it so, and earlier versions, and some networks since, so.
        enable, disable = (_method(model, f"{word}_checkpointing_{what}") for what in ("enable", "disable"))
        if enable is not None and disable is not None:
            return [_TransformersSwitch(model, enable, disable, f"{word}_checkpointing_kwargs")]
    if (whole := _method(model, "set_grad_checkpointing")) is not None:
        return [lambda on: whole(enable=on)]
    return [switch for child in model.children() for switch in _switches(child)]


@dataclass(frozen=True)
class _TransformersSwitch:
    """Switch of a network of transformers."""

    model: nn.Module
    enable: Callable[..., object]
    disable: Callable[[], object]
    keyword: str

    def __call__(self, on: bool) -> None:
        if not on:
            self.disable()
            return
        # The older form of torch's checkpoints gives no gradients behind inputs without one, so that a hook gives them one.
        self.enable(**{self.keyword: {"use_reentrant": False}})
        if (unhook := _method(self.model, "disable_input_require_grads")) is not None:
            unhook()
