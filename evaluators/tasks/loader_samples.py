"""Samples of a data loader: the positions in its data set that its sampler and ``drop_last`` select."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from spaces.errors import SecateursError

LONGEST = 100
"""A sampler may give so many times the length of its data set; one that gives more is taken to be endless."""


class LoaderError(SecateursError):
    """A data loader can't serve as a split of a task."""


@dataclass(frozen=True)
class Samples:
    """Samples of one epoch of a loader.

    Attributes:
        positions: Positions in the data set, in a fixed order.
        weights: Probability of each position, up to a factor, float64 of shape ``(len(positions),)``, where an epoch draws
            some of them; None where an epoch is all of them.
        replacement: Whether a position may be drawn twice in an epoch.
        draws: Number of samples in an epoch.
    """

    positions: Sequence[Any]
    weights: torch.Tensor | None
    replacement: bool
    draws: int

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        return self.draws

    def fixed(self) -> list[Any]:
        """Return the positions of the epoch that is the same every time."""
        if self.weights is None:
            return list(self.positions)
        return self.drawn(torch.Generator().manual_seed(0), self.draws)

    def drawn(self, generator: torch.Generator, count: int) -> list[Any]:
        """Return the positions of a random epoch, of its first ``count`` samples where all are taken."""
        if self.weights is None:
            return [self.positions[index] for index in torch.randperm(count, generator=generator).tolist()]
        chosen: list[int] = []
        while len(chosen) < count:
            # Without replacement, an epoch longer than the data set begins the data set again.
            now = count if self.replacement else min(count - len(chosen), int((self.weights > 0).sum()))
            chosen += torch.multinomial(self.weights, now, self.replacement, generator=generator).tolist()
        return [self.positions[index] for index in chosen]


def samples_of(loader: Any, split: str) -> Samples:
    """Return the samples that ``loader`` gives in an epoch.

    Args:
        loader: The data loader.
        split: ``train``, or a split to measure on, whose samples must be the same in every epoch.

    Raises:
        LoaderError: The loader selects its samples, or makes its batches, in a way that can't be kept.
    """
    place = f"the loader {split!r}"
    if not isinstance(loader, DataLoader):
        raise LoaderError(f"{place}: expected a torch DataLoader over a data set with a length, got a {type(loader).__name__}")
    if type(loader).__iter__ is not DataLoader.__iter__:
        raise LoaderError(
            f"{place}: {type(loader).__name__} makes its batches in an __iter__ of its own, which would be passed over; "
            "expected a DataLoader with a data set and a collate_fn that do the same"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise LoaderError(
            f"{place}: expected a torch DataLoader over a data set with a length, whose samples can be asked for by position; "
            f"{type(loader.dataset).__name__} is iterable only: pass its samples as a list, DataLoader(list(dataset), ...)"
        )
    batching = loader.batch_sampler
    if batching is None:
        raise LoaderError(
            f"{place}: batch_size=None, so that its data set gives whole batches; expected a data set of single samples and a "
            "batch_size"
        )
    if type(batching) is not BatchSampler:
        raise LoaderError(
            f"{place}: its batches are made by a batch_sampler of type {type(batching).__name__}, and a run makes batches of "
            "its own; expected a sampler (sampler=...), or a torch.utils.data.Subset of the data set"
        )
    try:
        found, ordered = _selected(batching.sampler, len(_sized(loader.dataset, batching.sampler)), place)
    except TypeError as error:
        raise LoaderError(f"{place}: expected a torch DataLoader over a data set with a length; {error}") from error
    if found.weights is not None and split != "train":
        raise LoaderError(
            f"{place}: {type(batching.sampler).__name__} draws other samples in every epoch, and a score needs the same; "
            "expected all of a data set in order, or a torch.utils.data.Subset of it"
        )
    found = _without_rest(found, batching, ordered, place, split)
    if not len(found):
        raise LoaderError(
            f"{place}: it gives no batch; "
            "expected a torch DataLoader over at least one sample, and with drop_last at least batch_size of them"
        )
    return found


def _sized(dataset: Any, sampler: Any) -> Any:
    return dataset if isinstance(dataset, Sized) else sampler


def _selected(sampler: Any, samples: int, place: str) -> tuple[Samples, bool]:
    """Return the samples of an epoch, and True if their order is always the same."""
    kind = type(sampler)
    if kind is SequentialSampler:
        return _all(range(len(sampler))), True
    if kind is RandomSampler:
        if not sampler.replacement and sampler.num_samples == samples:
            return _all(range(samples)), False
        return Samples(
            range(samples), torch.ones(samples, dtype=torch.float64), sampler.replacement, sampler.num_samples
        ), False
    if kind is WeightedRandomSampler:
        weights = torch.as_tensor(sampler.weights, dtype=torch.float64)
        if not bool((weights > 0).any()) or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
            raise LoaderError(f"{place}: expected finite weights from 0 up, at least one of them above 0")
        return Samples(range(len(weights)), weights, sampler.replacement, sampler.num_samples), False
    if kind is SubsetRandomSampler:
        return _all([int(index) for index in sampler.indices]), False
    first, again = (_positions(sampler, seed, LONGEST * max(samples, 1), place) for seed in (0, 1))
    if first == again:
        return _all(first), True
    if Counter(first) == Counter(again):
        return _all(sorted(first)), False
    raise LoaderError(
        f"{place}: {kind.__name__} gives other samples each time it is read, which can't be done again on resume; expected "
        "a torch.utils.data.WeightedRandomSampler, or a Subset of the data set"
    )


def _all(positions: Sequence[Any]) -> Samples:
    return Samples(positions, None, False, len(positions))


def _positions(sampler: Any, seed: int, longest: int, place: str) -> list[Any]:
    """Return what a sampler of unknown kind gives; torch's generator is seeded for it, and put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        found = list(islice(iter(sampler), longest + 1))
    if len(found) > longest:
        raise LoaderError(f"{place}: {type(sampler).__name__} does not end; expected the positions of one epoch")
    return found


def _without_rest(found: Samples, batching: BatchSampler, ordered: bool, place: str, split: str) -> Samples:
    """Return the samples without those that ``drop_last`` leaves out."""
    rest = len(found) % batching.batch_size if batching.drop_last else 0
    if rest == 0:
        return found
    kept = len(found) - rest
    if found.weights is not None:
        return Samples(found.positions, found.weights, found.replacement, kept)
    if ordered or kept == 0:
        return _all(found.positions[:kept])
    if split == "train":
        # Another rest is left out in every epoch, as a run does by itself.
        return found
    raise LoaderError(
        f"{place}: drop_last with a random order leaves out {rest} other samples in every epoch, and a score needs the same; "
        "expected drop_last=False, or shuffle=False"
    )
