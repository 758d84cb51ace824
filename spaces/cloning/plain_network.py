"""Plain networks: a given network without the wrappers of training and compilation, and with its computed weights stored."""

from __future__ import annotations

import warnings

from torch import nn
from torch.optim.swa_utils import AveragedModel

from spaces.cloning.clone import clone, is_compiled
from spaces.cloning.computed_weights import computed_weights
from spaces.cloning.folding import folded, origin_of
from spaces.errors import NetworkWarning

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def plain_network(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return a clone of ``model`` that holds layers and weights only, and a remark on each change; ``model`` stays as it is.

    DataParallel, DistributedDataParallel and AveragedModel are taken off, and what ``torch.compile`` made is the network that
    it was made of. Weights that a parametrization, weight_norm, spectral_norm or a mask of ``torch.nn.utils.prune`` computes
    become parameters; so do those that a layer's own code computes of the layer's tensors, as weight standardization does.
    """
    notes = []
    inside = _unwrapped(model)
    if inside is not model or any(is_compiled(module) for module in model.modules()):
        kinds = dict.fromkeys(type(module).__name__ for module in model.modules() if _wraps(module))
        notes.append(f"the network inside {', '.join(kinds)} is used; wrap or compile the result again")
    plain = clone(inside)
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if _unwrapped(child) is not child:
                setattr(module, name, _unwrapped(child))
    stored: dict[str, list[str]] = {}
    for name, module in plain.named_modules():
        for weight in computed_weights(module):
            weight.fold(module)
            stored.setdefault(weight.origin, []).append(f"{name}.{weight.tensor}".lstrip("."))
        layer = folded(module)
        if layer is not None:
            stored.setdefault(origin_of(module), []).append(f"{name}.weight".lstrip("."))
            # In its place by identity: code may hold the module in other ways than as a registered part.
            module.__class__ = type(layer)
            module.__dict__ = layer.__dict__
    for origin, names in stored.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        notes.append(
            f"{', '.join(names[:3])}{more}: what {origin} computes was folded into a plain parameter, which training is free "
            "to change"
        )
    return plain, notes


def without_wrappers(model: nn.Module) -> nn.Module:
    """Return ``model`` itself if it is plain, else its :func:`plain_network`, with a NetworkWarning on each change."""
    if not any(_wraps(module) or computed_weights(module) or folded(module) is not None for module in model.modules()):
        return model
    plain, notes = plain_network(model)
    for note in notes:
        warnings.warn(note, NetworkWarning, stacklevel=3)
    return plain


def _wraps(module: nn.Module) -> bool:
    return isinstance(module, _WRAPPERS) or is_compiled(module)


def _unwrapped(module: nn.Module) -> nn.Module:
    while _wraps(module):
        module = module.get_submodule("module" if isinstance(module, _WRAPPERS) else "_orig_mod")
    return module
