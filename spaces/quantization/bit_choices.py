"""Numbers of bits that layers may have: the same for all, or by patterns of their names."""

from __future__ import annotations

from collections.abc import Iterable

from spaces.errors import UnsupportedModelError
from spaces.patterns import first_match, require_matches
from spaces.quantization.format import MOST

BitChoices = tuple[int, ...] | dict[str, tuple[int, ...]]
"""Numbers of bits for all layers, or by name pattern, of which the first that matches counts."""


def all_bits(choices: BitChoices) -> tuple[int, ...]:
    """Return every number of bits that some layer may have, ascending."""
    lists = choices.values() if isinstance(choices, dict) else [choices]
    return tuple(sorted({bits for one in lists for bits in one}))


def bits_of(name: str, choices: BitChoices) -> tuple[int, ...]:
    """Return the numbers of bits that the layer ``name`` may have, ascending; none where no pattern matches it."""
    if not isinstance(choices, dict):
        return tuple(sorted(set(choices)))
    pattern = first_match(name, choices)
    return () if pattern is None else tuple(sorted(set(choices[pattern])))


def check_choices(option: str, choices: BitChoices, fewest: int) -> None:
    """Raise ValueError, naming the option, for a number of bits out of ``fewest`` to 8, or a pattern without any."""
    lists = (
        {f"{option}.{pattern}": bits for pattern, bits in choices.items()} if isinstance(choices, dict) else {option: choices}
    )
    for place, numbers in lists.items():
        if not numbers and isinstance(choices, dict):
            raise ValueError(f"{place}: expected at least one number of bits for this pattern, got none")
        for bits in numbers:
            if not fewest <= bits <= MOST:
                raise ValueError(f"{place}: expected numbers from {fewest} to {MOST}, got {bits}")


def require_choices(option: str, choices: BitChoices, decided: Iterable[str], fixed: Iterable[str]) -> None:
    """Raise if a pattern decides nothing, or if none decides a layer.

    Args:
        option: Name of the option, for the message.
        choices: Numbers of bits.
        decided: Names of the layers whose bits ``choices`` decides.
        fixed: Names of the first and the last layer, where ``first_last_bits`` decides theirs.

    Raises:
        UnsupportedModelError: A pattern matches no layer, or only those in ``fixed``; or a layer is matched by no pattern.
    """
    if not isinstance(choices, dict):
        return
    names, edges = list(decided), list(fixed)
    require_matches(choices, [*names, *edges])
    for pattern in choices if names else ():
        if not any(first_match(name, [pattern]) for name in names):
            met = next(name for name in edges if first_match(name, [pattern]))
            raise UnsupportedModelError(
                f"{option}: the pattern {pattern!r} matches only {met}, whose bits first_last_bits decides; set "
                "first_last_bits: null and give first and last layer patterns of their own, or leave this one out"
            )
    missed = [name for name in names if first_match(name, choices) is None]
    if missed:
        more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
        raise UnsupportedModelError(
            f"{option}: no pattern matches {missed[0]}{more}; add one such as '*' for all other layers, or exclude what is to "
            "stay in float"
        )
