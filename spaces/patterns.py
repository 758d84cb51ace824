"""Name patterns: the one way in which `include`, `exclude` and mappings by pattern are read.

A pattern matches a name if it equals the name or the name of any parent, or fits one as a shell pattern (``*``, ``?``,
``[...]``; case counts): ``layer1`` matches ``layer1.0.conv1``. The suffix of a channel group, ``conv#2``, may be left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from spaces.errors import UnsupportedModelError

V = TypeVar("V")
_NEAREST = 3


def first_match(name: str, patterns: Iterable[str]) -> str | None:
    """Return the first of ``patterns`` that matches ``name`` or a parent of it, None if there is none."""
    names = list(_with_parents(name))
    return next((pattern for pattern in patterns if any(_fits(one, pattern) for one in names)), None)


def reason_left_out(name: str, include: Sequence[str], exclude: Sequence[str]) -> str:
    """Return the reason why the patterns leave ``name`` out, empty if they do not; no ``include`` includes every name."""
    pattern = first_match(name, exclude)
    if pattern is not None:
        return f"excluded by the pattern {pattern!r}"
    return NOT_INCLUDED if include and first_match(name, include) is None else ""


NOT_INCLUDED = "no include pattern names it"
"""Reason for a name that no pattern of ``include`` matches."""


def value_of(name: str, values: Mapping[str, V], fallback: V) -> V:
    """Return the value of the first pattern that matches ``name`` or a parent of it, ``fallback`` if there is none."""
    pattern = first_match(name, values)
    return fallback if pattern is None else values[pattern]


def require_matches(patterns: Iterable[str], names: Iterable[str], noun: str = "layer") -> None:
    """Raise if a pattern matches none of ``names``.

    Args:
        patterns: The patterns.
        names: All names that may be meant.
        noun: Noun for a name, in the message.

    Raises:
        UnsupportedModelError: A pattern matches nothing; the message has the nearest names.
    """
    known = list(dict.fromkeys(one for name in names for one in _with_parents(name)))
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in known):
            near = difflib.get_close_matches(pattern, known, n=_NEAREST, cutoff=0.0)
            hint = f"nearest: {', '.join(map(repr, near))}" if near else f"it has no {noun}"
            raise UnsupportedModelError(
                f"the name pattern {pattern!r} matches no {noun} of the network; {hint}. "
                "`python -m search inspect CONFIG` lists them."
            )


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _with_parents(name: str) -> Iterator[str]:
    """Yield the name, without the suffix of a channel group too, and the names of all parents."""
    yield name
    bare = name.partition("#")[0]
    if bare != name:
        yield bare
    while "." in bare:
        bare = bare.rpartition(".")[0]
        yield bare
