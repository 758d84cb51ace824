"""The networks of transformers, from a JSON configuration of a known kind, never with weights or code from elsewhere."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search.trust.lists.base import Build, ModelList, Origin, path_of, require_bounded
from search.trust.lists.timm import FORBIDDEN, require_listed
from spaces.files.json_file import mapping, read_json
from spaces.files.reading import FileError, shown

_PATH = re.compile(r"transformers(?:\.[a-z_]+)*\.(AutoModelFor[A-Za-z0-9]+)\.from_config")
_TIMM_ARGUMENTS = ("backbone_kwargs", "model_args")
_LEFT_OUT = ("_name_or_path", "transformers_version", "attn_implementation", "_attn_implementation")


class TransformersModels(ModelList):
    """``transformers.AutoModelFor*.from_config`` with ``config``: the configuration, or its file's name in the run folder."""

    def find(self, path: str, arguments: Mapping[str, Any], folder: Path) -> Build | None:
        """Return how to build what ``path`` names, None for a path of another library."""
        found = _PATH.fullmatch(path.replace(":", "."))
        transformers = _imported() if found is not None else None
        if found is None or transformers is None:
            return None
        name = f"transformers.{found[1]}.from_config"
        automatic = getattr(transformers, found[1], None)
        if automatic is None:
            raise FileError(f"{name}: transformers {transformers.__version__} has no {found[1]}")
        if set(arguments) != {"config"}:
            raise FileError(f"{name}: expected the argument config alone, got {shown(sorted(arguments))}")
        data = _configuration(arguments["config"], folder, name)
        known = transformers.CONFIG_MAPPING
        kind = data.get("model_type")
        if not isinstance(kind, str) or kind not in known:
            raise FileError(f"{name}: config.model_type: expected a kind that transformers knows, got {shown(kind)}")
        _require_closed(data, f"{name}: config")
        require_bounded(data, f"{name}: config")
        return partial(_build, automatic, known[kind], data)

    def knows(self, factory: Any) -> bool:
        """Return whether ``factory`` is of this library."""
        named = inspect.ismethod(factory) and factory.__name__ in ("from_pretrained", "from_config")
        return named and path_of(factory.__self__).startswith("transformers.")

    def canonical(self, factory: Any, arguments: Mapping[str, Any], model: nn.Module) -> Origin | None:
        """Return the name in this list of what ``factory`` built, None for a factory that the list lacks."""
        built: Any = model
        try:
            data = json.loads(json.dumps(built.config.to_dict(), allow_nan=False))
            data = {key: value for key, value in data.items() if key not in _LEFT_OUT}
            _require_closed(data, "config")
        except (AttributeError, TypeError, ValueError, FileError):
            return None
        name = _automatic(type(model), data, factory.__self__.__name__)
        return (f"transformers.{name}.from_config", {"config": data}) if name else None


def _build(automatic: Any, configuration: Any, data: dict[str, Any]) -> nn.Module:
    model: nn.Module = automatic.from_config(configuration.from_dict(data), trust_remote_code=False)
    return model


def _automatic(kind: type, data: dict[str, Any], owner: str) -> str:
    """Return the name of the class ``AutoModelFor*`` that makes networks of the class ``kind``; empty where none does."""
    transformers = _imported()
    names = [name for name in dir(transformers) if name.startswith("AutoModelFor")]
    configuration = transformers.CONFIG_MAPPING[data["model_type"]]
    for name in sorted(names, key=lambda name: name != owner):
        try:
            with torch.device("meta"):
                if type(_build(getattr(transformers, name), configuration, data)) is kind:
                    return name
        except (ValueError, ImportError, AttributeError):
            continue
    return ""


def _configuration(value: Any, folder: Path, name: str) -> dict[str, Any]:
    if isinstance(value, str):
        if Path(value).name != value or value in ("", ".", ".."):
            raise FileError(f"{name}: config: expected the name of a file in the run folder, got {shown(value)}")
        try:
            value = read_json(folder / value)
        except OSError as error:
            raise FileError(f"{name}: config: {folder / str(value)} can't be read: {error.strerror}") from None
    return mapping(value, f"{name}: config")


def _require_closed(value: Any, what: str, kind: str = "") -> None:
    """Raise if a configuration asks, at any depth, for code, kernels or weights that are not in the library."""
    if isinstance(value, list):
        for item in value:
            _require_closed(item, what)
    if not isinstance(value, Mapping):
        return
    kind = str(value.get("model_type", ""))
    for key, item in value.items():
        place = f"{what}.{key}"
        if key in ("auto_map", "quantization_config") and item is not None:
            raise FileError(f"{place} is not allowed: it asks for code or tensors from elsewhere")
        if (key in ("use_kernels", "use_pretrained_backbone") or key in ("trust_remote_code", "pretrained")) and item:
            raise FileError(f"{place}: expected false, got {shown(item)}: it fetches code or weights")
        if "_implementation" in key and _mentions(item, "/:|"):
            raise FileError(f"{place}: expected the name of one of the library's own, got {shown(item)}: it fetches a kernel")
        if key in _TIMM_ARGUMENTS and isinstance(item, Mapping):
            forbidden = [name for name in (*FORBIDDEN, "pretrained") if item.get(name)]
            if forbidden:
                raise FileError(f"{place}.{forbidden[0]} is not allowed: it reads or fetches files")
        if (key == "backbone" and item is not None) or (key == "architecture" and kind == "timm_wrapper"):
            _require_plain_backbone(key, item, kind, place)
        _require_closed(item, place)


def _require_plain_backbone(key: str, item: Any, kind: str, place: str) -> None:
    if kind not in ("timm_backbone", "timm_wrapper"):
        raise FileError(f"{place}: expected backbone_config in its place, got {shown(item)}: a name is looked up on a hub")
    require_listed(item, place)


def _mentions(value: Any, letters: str) -> bool:
    if isinstance(value, Mapping):
        return any(_mentions(item, letters) for item in value.values())
    return isinstance(value, str) and any(letter in value for letter in letters)


def _imported() -> Any:
    try:
        import transformers
    except ImportError:
        return None
    return transformers
