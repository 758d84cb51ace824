"""The networks shipped with this project: ``spaces.networks.__all__``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from search.trust.lists.base import Build, ModelList, Origin, path_of, require_bounded
from spaces import networks

_MODULE = "spaces.networks"


class ShippedNetworks(ModelList):
    """Factories in :mod:`spaces.networks`, by their names."""

    def find(self, path: str, arguments: Mapping[str, Any], folder: Path) -> Build | None:
        """Return how to build what ``path`` names, None for a path of another library."""
        module, _, name = path.replace(":", ".").rpartition(".")
        if module != _MODULE or name not in networks.__all__:
            return None
        require_bounded(arguments, path)
        return partial(getattr(networks, name), **arguments)

    def knows(self, factory: Any) -> bool:
        """Return whether ``factory`` is of this library."""
        return path_of(factory).startswith(f"{_MODULE}.")

    def canonical(self, factory: Any, arguments: Mapping[str, Any], model: nn.Module) -> Origin | None:
        """Return the name in this list of what ``factory`` built, None for a factory that the list lacks."""
        module, _, name = path_of(factory).rpartition(".")
        listed = module == _MODULE and name in networks.__all__
        return (f"{_MODULE}.{name}", dict(arguments)) if listed else None
