"""Credit: options that have made survivors are drawn more often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

_DECAY = 0.8
_FLOOR = 0.05


class OperatorSelection:
    """Draws one of a few options in proportion to how often it has led to a survivor.

    This is the "dynamically adjustable" part of the genetic search (ours): the evaluation factor, which weighs
    importance against chance, and the operators are chosen so.
    """

    def __init__(self, options: Sequence[str]) -> None:
        self._options = tuple(options)
        self._wins = dict.fromkeys(self._options, 1.0)
        self._tries = dict.fromkeys(self._options, 2.0)

    def draw(self, rng: np.random.Generator) -> str:
        """Draw an option; none ever falls below a twentieth of the best one's chance."""
        rates = np.array([self._wins[option] / self._tries[option] for option in self._options])
        rates = np.maximum(rates, _FLOOR * rates.max())
        return self._options[int(rng.choice(len(self._options), p=rates / rates.sum()))]

    def settle(self, made: Iterable[str], survived: Iterable[str]) -> None:
        """Take in a generation: what made all of its candidates, and what made those that survived; older ones fade."""
        for option in self._options:
            self._wins[option] = 1.0 + _DECAY * (self._wins[option] - 1.0)
            self._tries[option] = 2.0 + _DECAY * (self._tries[option] - 2.0)
        for option in made:
            if option in self._tries:
                self._tries[option] += 1.0
        for option in survived:
            if option in self._wins:
                self._wins[option] += 1.0
