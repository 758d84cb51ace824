"""Objects that take a trace or a calibration to build, each built once in a process."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class BuiltOnce:
    """Objects by the step of the run that they belong to, and by a key of everything they were built from."""

    def __init__(self) -> None:
        """Start with nothing built."""
        self._found: dict[str, dict[Hashable, Any]] = {}

    def get(self, step: str, key: Hashable, build: Callable[[], T]) -> T:
        """Return what ``build`` returned for this step and key the first time.

        Args:
            step: Place and name of the stage, such as ``2-search``.
            key: Everything that the object depends on, the kind of object included.
            build: Makes the object.
        """
        found = self._found.setdefault(step, {})
        if key not in found:
            found[key] = build()
        made: T = found[key]
        return made

    def forget(self, step: str) -> None:
        """Let go of the objects of a step that is done."""
        self._found.pop(step, None)
