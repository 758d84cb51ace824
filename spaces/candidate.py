"""A candidate: one choice for every open decision, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Value = bool | int | float | str
"""A chosen value as plain data. A keep-mask is a text of ``"0"`` (remove) and ``"1"`` (keep), a character per channel."""

KeepMask = NDArray[np.bool_]
"""A keep-mask as an array, boolean of shape ``(channels,)``, True where a channel stays."""

_DIGITS = bytes.maketrans(b"\x00\x01", b"01")


class Candidate:
    """One choice for every open decision of a search space.

    Plain data without tensors, so that it travels to workers in a few bytes and is stored as JSON. Keep-masks are arrays inside
    (:meth:`mask`) and text in :attr:`values` and in JSON. Never changed once made; equal where all values are, and then equal
    in all that is made from them: decisions are sorted by name, whatever order they were given in or read back in.

    Args:
        values: The chosen value of every decision, by decision name; a keep-mask as an array, which is copied, or as text.
    """

    def __init__(self, values: Mapping[str, Value | KeepMask]) -> None:
        """Copy ``values``."""
        self._content = {name: _read_only(v) if isinstance(v, np.ndarray) else v for name, v in values.items()}
        self._read: dict[str, KeepMask] = {}

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """Plain value of every decision, by decision name, sorted; keep-masks as text."""
        return {name: mask_text(v) if isinstance(v, np.ndarray) else v for name, v in sorted(self._content.items(), key=_name)}

    def mask(self, name: str) -> KeepMask:
        """Return the keep-mask of the decision ``name``, boolean of shape ``(channels,)``, read-only.

        Raises:
            KeyError: The candidate does not decide ``name``.
            TypeError: The value is no keep-mask.
        """
        value = self._content[name]
        if isinstance(value, np.ndarray):
            return value
        if name not in self._read:
            if not isinstance(value, str):
                raise TypeError(f"decision {name!r} is {value!r}; expected a keep-mask")
            self._read[name] = _shared_mask(value)
        return self._read[name]

    def number(self, name: str) -> float:
        """Return the number that the decision ``name`` has.

        Raises:
            KeyError: The candidate does not decide ``name``.
            TypeError: The value is no number.
        """
        value = self._content[name]
        if isinstance(value, str | np.ndarray):
            raise TypeError(f"decision {name!r} is {self.values[name]!r}; expected a number")
        return float(value)

    def part(self, names: Iterable[str]) -> Candidate:
        """Return the candidate of the decisions ``names`` alone."""
        return Candidate({name: self._content[name] for name in names})

    def joined(self, other: Candidate) -> Candidate:
        """Return the candidate of the decisions of this one and of ``other``, whose values count where both decide."""
        return Candidate({**self._content, **other._content})

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content: equal candidates have equal fingerprints on every machine."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the values as JSON text with sorted names; equal candidates have equal texts."""
        return json.dumps(dict(self.values), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Candidate:
        """Return the candidate that :meth:`to_json` wrote as ``text``."""
        return Candidate(json.loads(text))

    def __eq__(self, other: object) -> bool:
        """Return whether all values are equal."""
        return isinstance(other, Candidate) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        """Return the hash of the fingerprint."""
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        """Return the candidate as an expression with plain values."""
        return f"Candidate({dict(self.values)!r})"

    def __reduce__(self) -> tuple[type[Candidate], tuple[dict[str, Value]]]:
        """Return the plain values for a pickle, in which arrays would be large."""
        return Candidate, (dict(self.values),)


def mask_text(mask: KeepMask) -> str:
    """Return a keep-mask, boolean of shape ``(channels,)``, as a text of ``"0"`` and ``"1"``."""
    return mask.tobytes().translate(_DIGITS).decode()


def mask_of(text: str) -> KeepMask:
    """Return the keep-mask, boolean of shape ``(channels,)``, that :func:`mask_text` wrote as ``text``."""
    return np.asarray(np.frombuffer(text.encode(), dtype=np.uint8) == ord("1"))


@lru_cache(maxsize=4096)
def _shared_mask(text: str) -> KeepMask:
    """Return the keep-mask of a text, read-only, since candidates with the same text share it."""
    return _read_only(mask_of(text))


def first_channels(kept: int, length: int) -> KeepMask:
    """Return the keep-mask of the first ``kept`` of ``length`` channels."""
    return np.arange(length) < kept


def _name(item: tuple[str, object]) -> str:
    return item[0]


def _read_only(mask: KeepMask) -> KeepMask:
    copied = np.array(mask, dtype=np.bool_)
    copied.setflags(write=False)
    return copied
