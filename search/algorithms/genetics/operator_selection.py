"""Adaptive operator selection: operators that made survivors are drawn more often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

_DECAY = 0.8
_FLOOR = 0.05


class OperatorSelection:
    """Draws one of a few options with a probability proportional to its success rate: survivors / candidates made.

    It adapts the operators of the genetic search and the evaluation factor, which weighs importance against chance
    (probability matching; the rates ours).

    Args:
        options: Names of the options.
    """

    def __init__(self, options: Sequence[str]) -> None:
        """Start with a success rate of 1/2 for every option."""
        self._options = tuple(options)
        self._wins = dict.fromkeys(self._options, 1.0)
        self._tries = dict.fromkeys(self._options, 2.0)

    def draw(self, rng: np.random.Generator) -> str:
        """Draw an option; each has at least 1/20 of the probability of the best one."""
        rates = np.array([self._wins[option] / self._tries[option] for option in self._options])
        rates = np.maximum(rates, _FLOOR * rates.max())
        return self._options[int(rng.choice(len(self._options), p=rates / rates.sum()))]

    def update(self, made: Iterable[str], survived: Iterable[str]) -> None:
        """Add the counts of a generation; counts of earlier generations decay by 0.8.

        Args:
            made: Operators of all its candidates, with repetition; unknown names are ignored.
            survived: Operators of those that survived.
        """
        for option in self._options:
            self._wins[option] = 1.0 + _DECAY * (self._wins[option] - 1.0)
            self._tries[option] = 2.0 + _DECAY * (self._tries[option] - 2.0)
        for option in made:
            if option in self._tries:
                self._tries[option] += 1.0
        for option in survived:
            if option in self._wins:
                self._wins[option] += 1.0
