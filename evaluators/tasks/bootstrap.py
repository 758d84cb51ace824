"""Standard errors of metrics that accumulate, by bootstrap over the samples of a split."""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from evaluators.meters import Meter, MeterError
from spaces.execution.batch import BatchError, Nested, count_samples, reorder

RESAMPLES = 200
FEWEST = 20
"""Resamples of which a standard error is still told (ours)."""
SECONDS = 60.0
"""Longest time spent on one network, beside its forward passes."""
PARTS = 500
"""Most parts of a split that are drawn from; a standard error's own relative error by their number is 1 / sqrt(2 * 500)."""
_SAME = 1e-3
"""Largest difference, relative to the metric, between all parts merged and one pass over the split."""


class Bootstrap:
    """Metrics of parts of a split, drawn with replacement and merged: the spread of the results is the standard error.

    The bootstrap is that of Efron (1979, Annals of Statistics 7). A part is a sample; of a split with more samples than
    :data:`PARTS`, each is one of so many random sets of samples of equal size (ours), which costs less and, as samples are
    independent, has the same expectation. Equal seeds give equal parts and draws for every network.

    Args:
        meters: Returns new metrics by name.
        samples: Number of samples in the split.
        seed: Seed of parts and draws.
    """

    def __init__(self, meters: Callable[[], Mapping[str, Meter]], samples: int, seed: int = 0) -> None:
        """Start without samples."""
        self._meters = meters
        self._rng = np.random.default_rng(seed)
        count = min(samples, PARTS)
        self._part_of = np.arange(samples) if count == samples else self._rng.permutation(samples) % count
        self._parts = [meters() for _ in range(count)]
        self._seen, self._spent, self._usable = 0, 0.0, bool(self._parts and self._parts[0])
        self.resamples = 0

    def add(self, outputs: Any, targets: Nested, samples: int) -> None:
        """Add the next samples of the split, which are taken apart.

        Outputs that have no row for every sample make all standard errors unknown, as does a metric that can't take one part.
        """
        if not self._usable:
            return
        began = time.perf_counter()
        rows: dict[int, list[int]] = defaultdict(list)
        for row, part in enumerate(self._part_of[self._seen : self._seen + samples]):
            rows[int(part)].append(row)
        try:
            if {count_samples(outputs), count_samples(targets), sum(map(len, rows.values()))} != {samples}:
                raise BatchError("expected a row for every sample")
            for part, places in rows.items():
                order = torch.tensor(places)
                taken, expected = reorder(outputs, order), reorder(targets, order)
                for meter in self._parts[part].values():
                    meter.update(taken, expected)
        except (BatchError, MeterError):
            self._usable = False
        self._seen += samples
        self._spent += time.perf_counter() - began
        self._usable = self._usable and self._spent < SECONDS

    def errors(self, whole: Mapping[str, float]) -> dict[str, float]:
        """Return the standard error of every metric, as far as it is known; :attr:`resamples` says by how many draws.

        Left out is a metric whose parts don't merge into that of the whole split, or that is no number for many a draw.

        Args:
            whole: The metrics of one pass over the split.
        """
        if not self._usable or len(self._parts) < 2:
            return {}
        began = time.perf_counter() - self._spent
        with warnings.catch_warnings():
            # Of a few samples, metrics warn of classes that are not among them.
            warnings.simplefilter("ignore")
            merged = self._merged(np.arange(len(self._parts)))
            names = [name for name, value in merged.items() if abs(value - whole[name]) <= _SAME * max(abs(whole[name]), _SAME)]
            found: dict[str, list[float]] = {name: [] for name in names}
            while names and self.resamples < RESAMPLES and time.perf_counter() - began < SECONDS:
                drawn = self._merged(self._rng.integers(len(self._parts), size=len(self._parts)))
                for name in names:
                    found[name].append(drawn[name])
                self.resamples += 1
        numbers = {name: [value for value in values if math.isfinite(value)] for name, values in found.items()}
        return {name: float(np.std(values, ddof=1)) for name, values in numbers.items() if len(values) >= FEWEST}

    def _merged(self, drawn: np.ndarray) -> dict[str, float]:
        """Return the metrics over the parts at positions ``drawn``; NaN for one that can't be computed of them."""
        found: dict[str, float] = {}
        for name, meter in self._meters().items():
            try:
                for part in drawn:
                    meter.merge(self._parts[part][name])
                found[name] = meter.compute()
            except MeterError:
                found[name] = math.nan
        return found
