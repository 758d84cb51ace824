"""Enumerate the candidates of a small space that were not visited, the nearest first."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from search.algorithms.encoding.channel_encoding import ChannelEncoding, Masks
from spaces.candidate import Candidate

SMALL_SPACE = 1 << 13
"""Largest number of candidates of a space that is enumerated."""


class Sweep:
    """All candidates of a small space, for when variation finds nothing new; empty for a space that is not small.

    Args:
        encoding: The problem's masks and costs.
        prefixes: Whether to enumerate only masks that keep the most important channels of each layer.

    Attributes:
        possible: Whether the space is small.
    """

    def __init__(self, encoding: ChannelEncoding, prefixes: bool = False) -> None:
        """Count the candidates; they are enumerated at the first call."""
        self._encoding = encoding
        self._prefixes = prefixes
        self.possible = encoding.size(prefixes) <= SMALL_SPACE
        self._bits: NDArray[np.bool_] | None = None

    def unvisited(self, visited: Collection[str], around: Sequence[Masks], count: int) -> list[Masks]:
        """Return up to ``count`` unvisited candidates under the targets, by ascending number of bits changed from ``around``.

        Args:
            visited: Fingerprints of the visited candidates.
            around: Masks to which distances are measured; [] for the order of enumeration.
            count: Largest number to return.
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
        borders = np.cumsum([domain.channels for domain in self._encoding.domains])[:-1]
        for position in order:
            masks = np.split(self._bits[position], borders)
            candidate: Candidate = self._encoding.candidate(masks)
            if candidate.fingerprint in visited:
                continue
            if self._encoding.constrained and self._encoding.load_of(candidate) > 1.0:
                continue
            if self._encoding.problem.space.excess(candidate) > 0.0:
                continue
            found.append(masks)
            if len(found) == count:
                break
        return found
