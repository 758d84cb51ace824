"""The one way in which DEAP's operators draw random numbers."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from deap import tools

_DRAWING = (tools.crossover, tools.mutation, tools.selection, tools.emo)
"""DEAP's modules that draw; each does so from its own global name ``random``."""
_LOCK = threading.Lock()


@contextmanager
def deap_draws_from(rng: np.random.Generator) -> Iterator[None]:
    """Let DEAP's operators draw from a generator seeded by ``rng`` within the block.

    DEAP takes no generator. Within the block the name ``random`` of :data:`_DRAWING` is a private ``random.Random``; after it,
    also after an error, the module again. The interpreter's global generator is neither read nor moved: to seed and to restore
    that one would give other threads numbers of this search, and this search some of theirs.
    """
    private = random.Random(int(rng.integers(1 << 62)))  # noqa: S311 (DEAP draws from it)
    with _LOCK:
        originals = [module.random for module in _DRAWING]
        try:
            for module in _DRAWING:
                module.random = private
            yield
        finally:
            for module, original in zip(_DRAWING, originals, strict=True):
                module.random = original
