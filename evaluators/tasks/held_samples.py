"""Samples held in memory, of a list of batches or of anything else that can be iterated again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from torch.utils.data import DataLoader, Dataset

from evaluators.task import Batch
from evaluators.tasks.loader_batches import check_held, pair_of
from evaluators.tasks.loader_samples import LoaderError
from spaces.execution.batch import BatchError, count_samples, join, select


class HeldSamples(Dataset[Any]):
    """Single samples, each a batch of one, of batches in memory.

    Args:
        batches: Pairs ``(inputs, targets)``, with a row per sample.
    """

    def __init__(self, batches: list[Batch]) -> None:
        """Count the samples."""
        self._batches = batches
        self._ends = list(accumulate(count_samples(batch) for batch in batches))

    def __len__(self) -> int:
        """Return the number of samples of all batches."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Batch:
        """Return a sample as inputs and targets with one row."""
        place = bisect_right(self._ends, index)
        row = index - (self._ends[place - 1] if place else 0)
        inputs, targets = select(self._batches[place], row, row + 1)
        return inputs, targets


def loader_of(given: Any, split: str) -> DataLoader[Any]:
    """Return ``given`` as a data loader: itself, or one over its samples, read once and held in memory.

    Raises:
        LoaderError: ``given`` can't be iterated, or only once, gives no pairs with a row per sample, or batches that differ in
            structure.
    """
    if isinstance(given, DataLoader):
        return given
    place = f"the loader {split!r}"
    if isinstance(given, Iterator) or not isinstance(given, Iterable):
        raise LoaderError(
            f"{place}: expected a torch DataLoader, or a list or anything else of (inputs, targets) that can be iterated "
            f"again; got a {type(given).__name__}"
        )
    batches = [pair_of(batch, split) for batch in given]
    try:
        check_held(batches, split)
        samples = HeldSamples(batches)
    except BatchError as error:
        raise LoaderError(f"{place}: {error}") from error
    return DataLoader(samples, batch_size=1, collate_fn=_joined)


def _joined(samples: list[Batch]) -> Batch:
    try:
        inputs, targets = join(samples)
    except BatchError as error:
        raise LoaderError(
            f"batches of a list are taken apart into samples and put together anew: {error}; fill samples up to one shape, or "
            "pass a DataLoader with a collate_fn that does"
        ) from error
    return inputs, targets
