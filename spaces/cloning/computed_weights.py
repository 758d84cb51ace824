"""Computed weights: tensors that a layer makes of others in every run, by a parametrization, a norm of the weight or a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


@dataclass(frozen=True)
class ComputedWeight:
    """A tensor of a layer that is computed in every run.

    Attributes:
        tensor: Name of the tensor, such as ``weight``.
        origin: What computes it, in words.
        remedy: The call that stores the computed values in its place.
        fold: Does so, in place, to the layer it is given.
    """

    tensor: str
    origin: str
    remedy: str
    fold: Callable[[nn.Module], object]


def computed_weights(module: nn.Module) -> list[ComputedWeight]:
    """Return the tensors of ``module`` itself that are computed, with their remedies."""
    found = []
    if parametrize.is_parametrized(module):
        for name, steps in module.get_submodule("parametrizations").named_children():
            kinds = " and ".join(type(step).__name__.strip("_") for step in steps.children())
            remedy = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"
            found.append(ComputedWeight(name, f"the parametrization {kinds}", remedy, _parametrized(name)))
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            remedy = f"torch.nn.utils.remove_weight_norm(layer, {hook.name!r})"
            found.append(ComputedWeight(hook.name, "weight_norm", remedy, _weight_normed(hook.name)))
        elif isinstance(hook, SpectralNorm):
            remedy = f"torch.nn.utils.remove_spectral_norm(layer, {hook.name!r})"
            found.append(ComputedWeight(hook.name, "spectral_norm", remedy, _spectral_normed(hook.name)))
        elif isinstance(hook, prune.BasePruningMethod):
            masked: str = hook._tensor_name
            remedy = f"torch.nn.utils.prune.remove(layer, {masked!r})"
            found.append(ComputedWeight(masked, "a mask of torch.nn.utils.prune", remedy, _pruned(masked)))
    return found


def _parametrized(name: str) -> Callable[[nn.Module], object]:
    return lambda layer: parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


def _weight_normed(name: str) -> Callable[[nn.Module], object]:
    return lambda layer: remove_weight_norm(layer, name)


def _spectral_normed(name: str) -> Callable[[nn.Module], object]:
    return lambda layer: remove_spectral_norm(layer, name)


def _pruned(name: str) -> Callable[[nn.Module], object]:
    return lambda layer: prune.remove(layer, name)  # type: ignore[no-untyped-call]
