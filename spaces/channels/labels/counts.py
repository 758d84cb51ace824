"""Counts: whole numbers that remember the attributes, or the shape of a tensor, that code computed them from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from spaces.layers.layer_kind import kind_of

SMALLEST = 2
"""Smallest number that is followed: 0 and 1 are mostly positions, and count no channels that may go (ours)."""


@dataclass(frozen=True, eq=False)
class Origin:
    """A number of channels that code can read.

    Attributes:
        value: The number.
        module: Name of the module that has the number in an attribute; empty for the network itself.
        attribute: The attribute, with the place in it where it is a list: ``dim``, ``splits[2]``; empty for a number that is
            read off a tensor's shape.
        labels: Labels of the channels that are counted, int64 of shape ``(value,)``; None where they are not known.
    """

    value: int
    module: str = ""
    attribute: str = ""
    labels: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Term:
    """``times`` times a number of channels, divided by ``divisor``."""

    origin: Origin
    times: int = 1
    divisor: int = 1

    @property
    def value(self) -> int:
        """The number that the term stands for."""
        return self.origin.value * self.times // self.divisor


class Count(int):
    """The sum of terms; sums, differences, multiples and exact parts are counts too, anything else is a plain number."""

    terms: tuple[Term, ...]
    other: tuple[Term, ...]

    def __new__(cls, value: int, terms: tuple[Term, ...], other: tuple[Term, ...] = ()) -> Count:
        """Return the count ``value``, the sum of ``terms``, and of ``other`` too where it is a product of two counts."""
        made = super().__new__(cls, value)
        made.terms, made.other = terms, other
        return made

    def __reduce__(self) -> Any:
        """Return what copies and pickles the plain number."""
        return int, (int(self),)

    def __add__(self, other: int) -> int:
        """Return a count for a count or nothing added."""
        value = int(self) + other if isinstance(other, int) else NotImplemented
        if isinstance(other, Count):
            return Count(int(value), self.terms + other.terms)
        return self if type(other) is int and other == 0 else value

    __radd__ = __add__

    def __neg__(self) -> Count:
        """Return the negative count."""
        return Count(-int(self), tuple(replace(term, times=-term.times) for term in self.terms))

    def __sub__(self, other: int) -> int:
        """Return a count for the difference of counts."""
        if isinstance(other, Count):
            return Count(int(self) - int(other), self.terms + (-other).terms)
        if type(other) is int and other == 0:
            return self
        return int(self) - other if isinstance(other, int) else NotImplemented

    def __mul__(self, other: int) -> int:
        """Return a count for a multiple; of two counts it is one of the larger, and else of the other."""
        if isinstance(other, Count):
            larger, smaller = (other, self) if other > self else (self, other)
            return Count(int(self) * int(other), _multiples(larger.terms, smaller), _multiples(smaller.terms, larger))
        if not isinstance(other, int) or isinstance(other, bool):
            return int(self) * other
        return Count(int(self) * int(other), _multiples(self.terms, other), _multiples(self.other, other))

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> int:
        """Return a count for an exact part of a single term."""
        if isinstance(other, int) and other > 0 and len(self.terms) == 1 and int(self) % other == 0:
            [term], parts = self.terms, int(other)
            if term.times % parts == 0:
                return Count(int(self) // parts, (replace(term, times=term.times // parts),))
            if term.times in (1, -1):
                return Count(int(self) // parts, (replace(term, divisor=term.divisor * parts),))
        return int(self) // other

    __hash__ = int.__hash__


def _multiples(terms: tuple[Term, ...], times: int) -> tuple[Term, ...]:
    return tuple(replace(term, times=term.times * int(times)) for term in terms)


def counts_in(value: Any) -> list[Count]:
    """Return the counts among the arguments of a function, in order."""
    if isinstance(value, Count):
        return [value]
    if isinstance(value, tuple | list):
        return [count for item in value for count in counts_in(item)]
    if isinstance(value, slice):
        return counts_in((value.start, value.stop))
    if isinstance(value, dict):
        return counts_in(tuple(value.values()))
    return []


@contextmanager
def counted_attributes(model: nn.Module) -> Iterator[None]:
    """Put counts in place of the whole numbers in attributes of the modules of ``model`` while the context lasts.

    Left alone are modules of PyTorch, and what a layer's kind sets.
    """
    modules = [
        (name, module)
        for name, module in model.named_modules()
        if not type(module).__module__.startswith("torch.") and not isinstance(module, torch.jit.ScriptModule)
    ]
    changed: list[tuple[dict[str, Any], str, Any, Any]] = []
    for name, module in modules:
        kind, held = kind_of(module), vars(module)
        known = () if kind is None else kind.sizes(1, 1, 1, 1)
        for attribute, value in list(held.items()):
            made = value if attribute in known else _counted(name, attribute, value)
            if made is not value:
                changed.append((held, attribute, value, made))
                held[attribute] = made
    try:
        yield
    finally:
        for held, attribute, value, made in changed:
            if held.get(attribute) is made:
                held[attribute] = value
        for _, module in modules:
            for attribute, value in list(vars(module).items()):
                if counts_in(value) and not isinstance(value, dict):
                    vars(module)[attribute] = _plain(value)


def _counted(module: str, attribute: str, value: Any) -> Any:
    """Return the value of an attribute with counts for its numbers; the value itself where it has none."""
    if type(value) is int and value >= SMALLEST:
        return Count(value, (Term(Origin(value, module, attribute)),))
    if type(value) in (list, tuple) and all(type(item) is int for item in value):
        made = [_counted(module, f"{attribute}[{place}]", item) for place, item in enumerate(value)]
        if any(one is not item for one, item in zip(made, value, strict=True)):
            return type(value)(made)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Count):
        return int(value)
    return type(value)(map(_plain, value)) if type(value) in (list, tuple, torch.Size) else value


def counted_shape(shape: torch.Size, dims: dict[int, Tensor]) -> torch.Size:
    """Return ``shape`` with counts for the sizes of ``dims``, by dimension the labels of the channels along it."""
    return torch.Size(
        Count(size, (Term(Origin(size, labels=dims[dim])),)) if dim in dims and size >= SMALLEST else size
        for dim, size in enumerate(shape)
    )
