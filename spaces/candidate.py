"""A candidate: one choice for every open decision, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

Value = bool | int | float | str


@dataclass(frozen=True)
class Candidate:
    """One choice for every open decision of a search space.

    Plain data without tensors, so that it travels to workers in a few bytes and is stored as JSON.

    Attributes:
        values: The chosen value of every decision, by decision name. A channel keep-mask is a string of
            ``"0"`` and ``"1"``, one character per coupled channel group.
    """

    values: Mapping[str, Value]

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

    def __hash__(self) -> int:
        """Return the hash of the fingerprint."""
        return hash(self.fingerprint)
