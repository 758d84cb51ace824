"""Blocks of a configuration: a registered name with its validated settings, and the limits a target sets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar


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

    Class attributes:
        on_score: False: a cost is limited, and a score sought.
    """

    on_score: ClassVar[bool] = False

    value: float
    relative: bool

    def absolute(self, reference: float) -> float:
        """Return the limit in the metric's unit, for a reference network that costs ``reference``."""
        return self.value * reference if self.relative else self.value

    def __str__(self) -> str:
        return f"<= {self.value * 100:.12g}%" if self.relative else f"<= {self.value!r}"


@dataclass(frozen=True)
class ScoreLimit:
    """A limit on what a network may lose of a score, for which the smallest network is sought.

    Attributes:
        value: The limit: a change where ``signed``, else a value of the score.
        unit: ``points`` for hundredths, ``%`` for per cent of the reference's score, empty for the metric's unit.
        signed: Whether ``value`` is a change against the reference.
        lower: Whether the score must not be below the limit; else not above it.

    Class attributes:
        on_score: True: a score is limited, and the cost sought.
    """

    on_score: ClassVar[bool] = True

    value: float
    unit: str
    signed: bool
    lower: bool

    def absolute(self, reference: float) -> float:
        """Return the limit in the metric's unit, for a reference network of the score ``reference``."""
        scaled = self.value / 100 if self.unit else self.value
        if self.unit == "%":
            scaled *= abs(reference) if self.signed else reference
        return reference + scaled if self.signed else scaled

    def kept(self, score: float, bound: float) -> bool:
        """Return whether ``score`` keeps ``bound``, a limit in the metric's unit."""
        return score >= bound if self.lower else score <= bound

    def __str__(self) -> str:
        number = f"{self.value:+.12g}" if self.signed else f"{self.value:.12g}"
        return f"{'>=' if self.lower else '<='} {number}{' points' if self.unit == 'points' else self.unit}"


_SCORE_LIMIT = re.compile(
    r"^\s*(?P<side>>=|<=)\s*(?P<sign>[+-]?)(?P<number>[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*(?P<unit>points?|%)?\s*$"
)


def parse_score_limit(text: object) -> ScoreLimit | None:
    """Read a limit on a score, such as ``">= -1.0 points"``; None for any other text, such as an upper limit on a cost.

    ``">= -1%"`` is one per cent of the reference's score, ``">= -0.01"`` in the metric's unit, ``">= 0.9"`` a value. For a
    score that is better low a change is written with its sign, ``"<= +0.02"``.

    Raises:
        ValueError: Points without a sign, which are no change.
    """
    found = _SCORE_LIMIT.match(text) if isinstance(text, str) else None
    if found is None or (found["side"] == "<=" and found["sign"] != "+"):
        return None
    unit = "points" if (found["unit"] or "").startswith("point") else found["unit"] or ""
    if unit == "points" and not found["sign"]:
        raise ValueError(f'points are a change against the reference: expected a sign, ">= -1.0 points", got {text!r}')
    value = float(f"{found['sign']}{found['number']}")
    return ScoreLimit(value, unit, bool(found["sign"]), found["side"] == ">=")


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
