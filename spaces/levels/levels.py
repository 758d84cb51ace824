"""Levels of every decision of a space: nested keep-masks, numbers in order, and the levels that a space names itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spaces.candidate import Value, mask_text
from spaces.domains import Domain
from spaces.errors import SecateursError

Levels = dict[str, tuple[Value, ...]]
"""Values by decision, the cheapest first."""


class NoLevelsError(SecateursError):
    """A decision has no levels."""


def ordered_levels(name: str, domain: Domain, named: Mapping[str, Sequence[Value]] | None) -> tuple[Value, ...] | None:
    """Return the levels of a decision that follow from its domain alone, cheapest first; None for a keep-mask.

    Args:
        name: The decision.
        domain: Its domain.
        named: Levels of all decisions by the space itself (:attr:`.SearchSpace.levels`); None where it names none.

    Raises:
        NoLevelsError: The decision is neither a keep-mask nor a choice of numbers.
    """
    if named is not None:
        return tuple(named[name])
    if domain.channels:
        return None
    if domain.numbers:
        return tuple(domain.numbers)
    raise NoLevelsError(
        f"expected a space whose decisions are keep-masks and choices of numbers, but {name!r} is of type "
        f"{type(domain).__name__}: {domain.describe}; use the space channel_mask, bit_width or joint, or an algorithm "
        "that handles this kind of decision"
    )


def levels_of(
    domains: Mapping[str, Domain], named: Mapping[str, Sequence[Value]] | None, importance: Mapping[str, Any], steps: int
) -> Levels:
    """Return the levels of every decision, cheapest first, in the order of ``domains``.

    The levels of a keep-mask are nested: each keeps the most important channels, so many as its count says.

    Args:
        domains: Legal values of every decision.
        named: Levels of all decisions by the space itself (:attr:`.SearchSpace.levels`); None where it names none.
        importance: Importance of every channel of the keep-masks, by decision, shape ``(channels,)``.
        steps: Most levels of a keep-mask.

    Raises:
        NoLevelsError: A decision is neither a keep-mask nor a choice of numbers.
        SecateursError: The importance of a keep-mask is missing or does not fit.
    """
    found: Levels = {}
    for name, domain in domains.items():
        levels = ordered_levels(name, domain, named)
        found[name] = _nested(importance_of(importance, name, domain), domain, steps) if levels is None else levels
    return found


def spread_counts(legal: Sequence[int], steps: int) -> list[int]:
    """Return at most ``steps`` of the ascending numbers ``legal``, the first and the last among them, evenly spread.

    Each is the legal number nearest to one of ``steps`` evenly spaced numbers; of two, the larger.
    """
    counts = np.asarray(legal)[::-1]
    wanted = np.linspace(counts[-1], counts[0], steps)
    return sorted({int(counts[np.abs(counts - one).argmin()]) for one in wanted})


def importance_of(table: Any, name: str, domain: Domain) -> NDArray[np.float64]:
    """Return the importance of every channel of the decision ``name``, shape ``(channels,)``, from a table by decision.

    Raises:
        SecateursError: It is missing, of another length, or not finite.
    """
    if not isinstance(table, Mapping) or name not in table:
        raise SecateursError(
            f"expected tables['importance'][{name!r}], one value per channel, and found none; "
            "the search stage computes it: pass its tables to the algorithm"
        )
    values = np.asarray(table[name], dtype=np.float64)
    if values.shape != (domain.channels,) or not np.isfinite(values).all():
        wrong = int(values.size - np.isfinite(values).sum())
        raise SecateursError(
            f"importance of {name!r}: expected {domain.channels} finite values, got shape {values.shape} with {wrong} "
            "that are not finite; check the criterion and the weights"
        )
    return values


def best_first(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the positions of ``values`` from the largest to the smallest, shape as given; ties fall to the earlier one."""
    return np.argsort(-values, kind="stable")


def _nested(importance: NDArray[np.float64], domain: Domain, steps: int) -> tuple[Value, ...]:
    places = np.empty(domain.channels, dtype=np.int64)
    places[best_first(importance)] = np.arange(domain.channels)
    return tuple(mask_text(places < kept) for kept in spread_counts(domain.legal_counts(), steps))
