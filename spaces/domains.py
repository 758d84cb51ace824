"""Domains: the legal values of one decision."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spaces.candidate import Value, mask_text


class Domain(ABC):
    """The legal values of one decision.

    Attributes:
        log: True if numbers between the :attr:`bounds` are drawn with an even logarithm.
    """

    log: bool = False

    @abstractmethod
    def contains(self, value: object) -> bool:
        """Return whether ``value`` is legal."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Value:
        """Draw a legal value."""

    @property
    @abstractmethod
    def describe(self) -> str:
        """The domain in words, for error messages."""

    @property
    def choices(self) -> Sequence[Value]:
        """Every legal value of a choice of a few; none for another domain."""
        return ()

    @property
    def numbers(self) -> Sequence[float]:
        """Options of a choice among numbers, ascending; none for another domain."""
        return ()

    @property
    def channels(self) -> int:
        """Number of channels of a keep-mask; 0 for another domain."""
        return 0

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Smallest and largest number of an interval; None for another domain."""
        return None

    def legal_counts(self) -> list[int]:
        """Return every number of channels that a keep-mask may keep, ascending; none for another domain."""
        return []


@dataclass(frozen=True)
class Mask(Domain):
    """Keep-masks over ``length`` coupled channels: a string of ``"0"`` (remove) and ``"1"`` (keep).

    Attributes:
        length: Number of coupled channels, one character each.
        minimum: Fewest channels that must be kept, at least one.
        multiple: The number kept must be a multiple of this, or all channels.
    """

    length: int
    minimum: int = 1
    multiple: int = 1

    @property
    def channels(self) -> int:
        """Number of coupled channels."""
        return self.length

    def contains(self, value: object) -> bool:
        """Return whether ``value`` is a text of ``length`` characters 0 or 1 that keeps a legal number of channels."""
        if not isinstance(value, str) or len(value) != self.length or set(value) - {"0", "1"}:
            return False
        return self.allows(value.count("1"))

    def allows(self, kept: int) -> bool:
        """Return whether ``kept`` channels may be kept."""
        return kept == self.length or (self.minimum <= kept <= self.length and kept % self.multiple == 0)

    def legal_counts(self) -> list[int]:
        """Return every number of channels that may be kept, ascending."""
        return [kept for kept in range(1, self.length + 1) if self.allows(kept)]

    def sample(self, rng: np.random.Generator) -> str:
        """Draw the number of kept channels, then the channels, each evenly."""
        kept = int(rng.choice(self.legal_counts()))
        mask = np.zeros(self.length, dtype=bool)
        mask[rng.permutation(self.length)[:kept]] = True
        return mask_text(mask)

    @property
    def describe(self) -> str:
        """Length and legal numbers, in words."""
        step = f", a multiple of {self.multiple}" if self.multiple > 1 else ""
        return f"{self.length} characters '0' or '1' with at least {self.minimum} kept{step}"


@dataclass(frozen=True)
class Choice(Domain):
    """One of a few options."""

    options: Sequence[Value]

    @property
    def choices(self) -> Sequence[Value]:
        """The options."""
        return self.options

    @property
    def numbers(self) -> Sequence[float]:
        """Options in ascending order; none if one is no number."""
        found = [one for one in self.options if isinstance(one, int | float) and not isinstance(one, bool)]
        return sorted(found) if len(found) == len(self.options) else ()

    def contains(self, value: object) -> bool:
        """Return whether ``value`` is one of the options, of the same type."""
        return any(value == option and type(value) is type(option) for option in self.options)

    def sample(self, rng: np.random.Generator) -> Value:
        """Draw an option evenly."""
        return self.options[int(rng.integers(len(self.options)))]

    @property
    def describe(self) -> str:
        """The options, in words."""
        return "one of " + ", ".join(repr(option) for option in self.options)


@dataclass(frozen=True)
class Real(Domain):
    """A number from ``low`` to ``high``, both included; ``log`` samples its logarithm evenly."""

    low: float
    high: float
    log: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest number."""
        return self.low, self.high

    def contains(self, value: object) -> bool:
        """Return whether ``value`` is a float within the bounds."""
        return isinstance(value, float) and self.low <= value <= self.high

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a number evenly, or with an even logarithm."""
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
            return min(max(drawn, self.low), self.high)
        return float(rng.uniform(self.low, self.high))

    @property
    def describe(self) -> str:
        """The bounds, in words."""
        return f"a number from {self.low:g} to {self.high:g}"
