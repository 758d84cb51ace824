"""Sweeping a small space: what is still unvisited, nearest first."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from search.algorithms.encoding.channel_encoding import ChannelEncoding, Masks
from spaces.candidate import Candidate

SMALL_SPACE = 1 << 13
"""Spaces of up to so many candidates can be swept."""


class Sweep:
    """Every candidate of a small space, for when variation brings nothing new; empty for a space that is not small."""

    def __init__(self, encoding: ChannelEncoding, prefixes: bool = False) -> None:
        self._encoding = encoding
        self._prefixes = prefixes
        self.possible = encoding.size(prefixes) <= SMALL_SPACE
        self._bits: NDArray[np.bool_] | None = None

    def unvisited(self, visited: Collection[str], around: Sequence[Masks], count: int) -> list[Masks]:
        """Return up to ``count`` candidates under the targets that were not visited, those fewest flips from
        ``around`` first.

        Args:
            visited: Fingerprints not to return.
            around: Masks to be near to; without any, the order is that of the enumeration.
            count: Most to return.
        """
        if not self.possible or count <= 0:
            return []
        if self._bits is None:
            self._bits = np.array([np.concatenate(masks) for masks in self._encoding.enumerate(self._prefixes)])
        order = np.arange(len(self._bits))
        if around:
            distances = np.min([(self._bits != np.concatenate(masks)).sum(axis=1) for masks in around], axis=0)
            order = np.argsort(distances, kind="stable")
        found: list[Masks] = []
        borders = np.cumsum([domain.length for domain in self._encoding.domains])[:-1]
        for position in order:
            masks = np.split(self._bits[position], borders)
            candidate: Candidate = self._encoding.candidate(masks)
            if candidate.fingerprint in visited:
                continue
            if self._encoding.constrained and self._encoding.load_of(candidate) > 1.0:
                continue
            found.append(masks)
            if len(found) == count:
                break
        return found
