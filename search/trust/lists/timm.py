"""The networks of timm, by the names of ``timm.list_models()``, never with weights or a configuration from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from search.trust.lists.base import Build, ModelList, Origin, path_of, require_bounded
from spaces.files.reading import FileError, shown

_CREATE = "timm.create_model"
FORBIDDEN = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
"""Arguments of ``timm.create_model`` that read files or fetch them."""


class TimmModels(ModelList):
    """``timm.create_model(NAME, pretrained=False)``; an entry point's own path (``timm.models.resnet50``) means the same."""

    def find(self, path: str, arguments: Mapping[str, Any], folder: Path) -> Build | None:
        """Return how to build what ``path`` names, None for a path of another library."""
        path = path.replace(":", ".")
        if path != _CREATE and not path.startswith("timm.models."):
            return None
        timm = _imported()
        if timm is None:
            return None
        own = dict(arguments)
        if path == _CREATE:
            name = own.pop("model_name", None)
        else:
            name = path.rpartition(".")[2]
            if name not in timm.list_models() or path not in (f"timm.models.{name}", path_of(timm.model_entrypoint(name))):
                return None
        require_listed(name, f"{_CREATE}: model_name")
        require_no_files(own, _CREATE)
        require_bounded(own, _CREATE)
        return partial(timm.create_model, name, **{**own, "pretrained": False})

    def knows(self, factory: Any) -> bool:
        """Return whether ``factory`` is of this library."""
        return path_of(factory).startswith("timm.")

    def canonical(self, factory: Any, arguments: Mapping[str, Any], model: nn.Module) -> Origin | None:
        """Return the name in this list of what ``factory`` built, None for a factory that the list lacks."""
        timm = _imported()
        own = {key: value for key, value in arguments.items() if key not in (*FORBIDDEN, "pretrained")}
        if timm is None:
            return None
        if factory is timm.create_model:
            name, _, tag = str(own.pop("model_name", "")).partition(".")
            if tag and "num_classes" not in own and isinstance(getattr(model, "num_classes", None), int):
                own["num_classes"] = model.num_classes
        else:
            name = path_of(factory).rpartition(".")[2]
            if name in timm.list_models() and timm.model_entrypoint(name) is not factory:
                return None
        return (_CREATE, {"model_name": name, **own}) if name in timm.list_models() else None


def require_listed(name: Any, what: str) -> None:
    """Raise if ``name`` is no network of timm's own list, such as one on a hub (``hf-hub:...``).

    Raises:
        FileError: The message begins with ``what``.
    """
    timm = _imported()
    if timm is None or not isinstance(name, str) or ":" in name or name not in timm.list_models():
        raise FileError(f"{what}: expected a name in timm.list_models(), got {shown(name)}")


def require_no_files(arguments: Mapping[str, Any], what: str) -> None:
    """Raise if ``arguments`` of ``timm.create_model`` name a file or something to fetch.

    Raises:
        FileError: The message begins with ``what``.
    """
    for key in FORBIDDEN:
        if arguments.get(key) is not None:
            raise FileError(f"{what}: {key} is not allowed, since it reads or fetches files; got {shown(arguments[key])}")


def _imported() -> Any:
    try:
        import timm
    except ImportError:
        return None
    return timm
