"""A closed list of networks, and the bounds of the arguments they are built with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from spaces.files.reading import FileError, shown

Build = Callable[[], nn.Module]
Origin = tuple[str, dict[str, Any]]
"""A factory's import path and its keyword arguments."""

LARGEST_ARGUMENT = 2**24
"""Largest number in a factory's arguments (ours: above every width, class count and context length of a listed network)."""


class ModelList(ABC):
    """Networks of one library that are built by name, never from an import path."""

    @abstractmethod
    def find(self, path: str, arguments: Mapping[str, Any], folder: Path) -> Build | None:
        """Return how to build what ``path`` stands for, None where it is not in this list.

        Nothing but the list's own library is imported.

        Args:
            path: Import path of a factory, as a run folder names it.
            arguments: Its keyword arguments, JSON data.
            folder: Where files that the arguments name are looked for.

        Raises:
            SecateursError: It is in the list, and its arguments ask for more than the list allows.
        """

    @abstractmethod
    def knows(self, factory: Any) -> bool:
        """Return whether ``factory``, the object at the import path in a configuration, may be one of this list."""

    @abstractmethod
    def canonical(self, factory: Any, arguments: Mapping[str, Any], model: nn.Module) -> Origin | None:
        """Return the form in which this list names what a person's configuration has built, None where it doesn't.

        Args:
            factory: One that the list knows.
            arguments: Its keyword arguments.
            model: The network it returned.
        """


def require_bounded(arguments: Any, name: str) -> None:
    """Raise if a number in ``arguments``, at any depth, is beyond :data:`LARGEST_ARGUMENT`.

    Raises:
        FileError: The message begins with ``name``.
    """
    if isinstance(arguments, Mapping):
        for key, value in arguments.items():
            require_bounded(value, f"{name}: {key}")
    elif isinstance(arguments, list | tuple):
        for value in arguments:
            require_bounded(value, name)
    elif isinstance(arguments, int | float) and abs(arguments) > LARGEST_ARGUMENT:
        raise FileError(f"{name}: expected a number of at most {LARGEST_ARGUMENT:,}, got {shown(arguments)}")


def path_of(thing: Any) -> str:
    """Return the import path under which ``thing`` was defined; empty where it doesn't say."""
    try:
        module, name = thing.__module__, thing.__qualname__
    except AttributeError:
        return ""
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
