"""Differences between two configurations, and the rule that says which of them a resumed run may have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from search.config.registries import STAGE


@dataclass(frozen=True)
class Difference:
    """A field in which two configurations differ; ``None`` also stands for "not there".

    Attributes:
        path: Keys down to the field, such as ``("stages", "2", "search", "batch")``.
        old: The first configuration's value.
        new: The second's.
    """

    path: tuple[str, ...]
    old: Any
    new: Any

    def __str__(self) -> str:
        """Return the difference in words, for messages."""
        return f"{'.'.join(self.path)} was {self.old!r} and is now {self.new!r}"

    @property
    def allowed(self) -> bool:
        """True for a difference that a resumed run may have: in ``execution``, or in what a stage says may grow."""
        if self.path[:1] == ("execution",):
            return True
        if len(self.path) < 4 or self.path[0] != "stages":
            return False
        if ".".join(self.path[3:]) not in STAGE.find(self.path[2]).grows:
            return False
        if isinstance(self.new, list):
            return isinstance(self.old, list) and all(entry in self.new for entry in self.old)
        return self.new is None or (self.old is not None and self.new > self.old)


def differences(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[Difference]:
    """Yield every field in which two pieces of plain data differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), (*path, str(key)))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (first, second) in enumerate(zip(old, new, strict=True)):
            yield from differences(first, second, (*path, str(index)))
    elif old != new:
        yield Difference(path, old, new)
