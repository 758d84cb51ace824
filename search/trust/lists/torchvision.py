"""The networks of torchvision, by the names of ``torchvision.models.list_models()``, never with its weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from search.trust.lists.base import Build, ModelList, Origin, path_of, require_bounded
from spaces.files.reading import FileError, shown

_PACKAGE = "torchvision.models"
_GET = f"{_PACKAGE}.get_model"
_WEIGHTS = ("weights", "weights_backbone")
_LEGACY = ("pretrained", "pretrained_backbone")


class TorchvisionModels(ModelList):
    """``torchvision.models.get_model(NAME)``; a factory's own path (``torchvision.models.resnet18``) means the same."""

    def find(self, path: str, arguments: Mapping[str, Any], folder: Path) -> Build | None:
        """Return how to build what ``path`` names, None for a path of another library."""
        path = path.replace(":", ".")
        if not path.startswith(f"{_PACKAGE}."):
            return None
        from torchvision import models

        own = dict(arguments)
        name = own.pop("name", None) if path == _GET else _name_of(_found(path))
        if path != _GET and not name:
            return None
        if not isinstance(name, str) or name not in models.list_models():
            raise FileError(f"{_GET}: expected a name in torchvision.models.list_models(), got {shown(name)}")
        require_bounded(own, path)
        return partial(models.get_model, name, **_without_weights(name, own))

    def knows(self, factory: Any) -> bool:
        """Return whether ``factory`` is of this library."""
        return path_of(factory).startswith(f"{_PACKAGE}.")

    def canonical(self, factory: Any, arguments: Mapping[str, Any], model: nn.Module) -> Origin | None:
        """Return the name in this list of what ``factory`` built, None for a factory that the list lacks."""
        from torchvision import models

        own = dict(arguments)
        name = str(own.pop("name", "")) if factory is models.get_model else _name_of(factory)
        if name not in models.list_models():
            return None
        # GoogLeNet and Inception change their inputs where they come with weights.
        changed = {}
        if isinstance(model, models.GoogLeNet | models.Inception3):
            changed = {"transform_input": True} if model.transform_input else {}
            if own.get("weights") is not None and not model.aux_logits:
                changed["aux_logits"] = False
        kept = {key: value for key, value in own.items() if key not in (*_WEIGHTS, *_LEGACY)}
        return _GET, {"name": name, **changed, **kept}


def _found(path: str) -> Any:
    """Return what stands at a path below :mod:`torchvision.models`, None where nothing does; nothing more is imported."""
    from torchvision import models

    found: Any = models
    for part in path.removeprefix(f"{_PACKAGE}.").split("."):
        found = getattr(found, part, None)
    return found


def _name_of(factory: Any) -> str:
    """Return the name under which torchvision lists a factory, empty where it doesn't."""
    from torchvision import models

    return next((name for name in models.list_models() if models.get_model_builder(name) is factory), "")


def _without_weights(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``arguments`` with every kind of weights forced to None, where the network ``name`` takes them."""
    from torchvision import models

    takes = inspect.signature(models.get_model_builder(name)).parameters
    kept = {key: value for key, value in arguments.items() if key not in (*_WEIGHTS, *_LEGACY)}
    return {**kept, **{key: None for key in _WEIGHTS if key in takes}}
