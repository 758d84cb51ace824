"""Blocks of a configuration: a registered name with its validated settings, and the limits a target sets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Block:
    """A ``{name: x, option: value}`` block of a configuration.

    Attributes:
        name: Key in the block's registry, or the import path of a class of the user's own.
        settings: Instance of that class's frozen ``Settings``, validated.
    """

    name: str
    settings: Any


@dataclass(frozen=True)
class Limit:
    """An upper limit on a cost.

    Attributes:
        value: The limit: a share of the reference's cost where ``relative``, else in the metric's unit.
        relative: Whether ``value`` is a share of the reference.
    """

    value: float
    relative: bool

    def absolute(self, reference: float) -> float:
        """Return the limit in the metric's unit, for a reference network that costs ``reference``."""
        return self.value * reference if self.relative else self.value

    def __str__(self) -> str:
        return f"<= {self.value * 100:.12g}%" if self.relative else f"<= {self.value!r}"


_LIMIT = re.compile(
    r"^\s*(?:<=\s*)?(?P<number>-?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(?P<percent>%)?\s*$"
)


_OTHER_LIMIT = re.compile(r"^\s*(?:>=?|<|==?|=<)\s*(?P<number>[0-9.][0-9_.eE+-]*\s*%?)\s*$")


def parse_limit(text: str | float) -> Limit:
    """Read a target such as ``"<= 40%"`` (of the reference) or ``"<= 1200000"`` (in the metric's unit).

    Raises:
        ValueError: ``text`` is no such limit, or one that no network or every network meets.
    """
    found = None if isinstance(text, bool) else _LIMIT.match(str(text))
    if found is None and (other := _OTHER_LIMIT.match(str(text))):
        raise ValueError(f'expected a limit from above, written "<= {other["number"]}"; got {text!r}')
    if found is None:
        raise ValueError(f'expected "<= 40%" (of the reference) or "<= 1200000" (in the metric\'s unit), got {text!r}')
    value = float(found["number"].replace("_", ""))
    if value <= 0:
        raise ValueError(f"a limit must be above 0, got {text!r}: no network costs nothing")
    if not found["percent"]:
        return Limit(value, relative=False)
    if value >= 100:
        raise ValueError(f"a limit must be below 100%, got {text!r}: the network that the search starts from meets it")
    return Limit(value / 100, relative=True)
