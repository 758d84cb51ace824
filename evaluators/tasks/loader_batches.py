"""Batches of a data loader: pairs of inputs and targets of one structure, with a row for every sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.task import Batch
from evaluators.tasks.loader_samples import LoaderError
from spaces.execution.batch import count_samples, describe, entries, first_tensor_of, named_tensors


def pair_of(batch: Any, split: str) -> Batch:
    """Return inputs and targets of what a loader gave.

    Raises:
        LoaderError: It is no pair.
    """
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        came = f"a mapping with {', '.join(map(str, batch))}: return (inputs, targets) from a collate_fn, such as (batch, None)"
    else:
        parts = f" of {len(batch)}" if isinstance(batch, Sequence) else ""
        came = f"a {type(batch).__name__}{parts}: return (inputs, targets) from a collate_fn"
    raise LoaderError(
        f"the loader {split!r}: expected a torch DataLoader over a data set with a length that gives (inputs, targets); "
        f"got {came}"
    )


def with_tuples(batch: Any) -> Any:
    """Return ``batch`` with tuples for the lists that PyTorch's default collation makes of samples that are tuples."""
    if isinstance(batch, Mapping):
        return {key: with_tuples(value) for key, value in batch.items()}
    # A list of text has an entry per sample.
    if isinstance(batch, list) and not all(isinstance(part, str | bytes) for part in batch):
        return tuple(with_tuples(part) for part in batch)
    return batch


def check_rows(batch: Batch, samples: int, split: str) -> None:
    """Check that inputs hold tensors, and that inputs and targets have a row for every sample.

    Args:
        batch: Inputs and targets.
        samples: Number of samples that were asked for.
        split: Name of the split.

    Raises:
        LoaderError: They have not; the message names the entry.
    """
    place, (inputs, targets) = f"the loader {split!r}", batch
    first = first_tensor_of(inputs)
    if first is None or (isinstance(inputs, str) or not first.dim()):
        raise LoaderError(f"{place}: expected inputs of a tensor, or of tensors in tuples and mappings; got {_kind(inputs)}")
    if (found := count_samples(inputs)) != samples:
        raise LoaderError(
            f"{place}: expected a row per sample in the first entry of the inputs, {samples} here; got {found} "
            f"({describe(inputs)})"
        )
    for name, tensor in named_tensors(targets):
        if not isinstance(targets, list) and (not tensor.dim() or len(tensor) != samples):
            raise LoaderError(
                f"{place}: expected targets with a row per sample, {samples} here; got {name or 'a tensor'} of shape "
                f"{tuple(tensor.shape)}"
            )


def check_structure(
    batch: Batch, other: Batch, place: str, as_in: str = "as in the split search", samples: tuple[int, int] | None = None
) -> None:
    """Check that a batch has the entries of another one.

    Args:
        batch: Inputs and targets.
        other: Those that are known.
        place: The batch in words, for messages.
        as_in: The other batch in words.
        samples: Number of samples of both, to compare shapes besides types and dimensions.

    Raises:
        LoaderError: They differ in names, types, dimensions or, where asked, shapes; the message names the entry.
    """
    counts = samples or (None, None)
    for what, own, wanted in zip(("inputs", "targets"), batch, other, strict=True):
        mine, theirs = entries(own, counts[0]), entries(wanted, counts[1])
        for name in [*theirs, *(name for name in mine if name not in theirs)]:
            if mine.get(name) != theirs.get(name):
                entry = f"entry {name} of the {what}" if name else f"the {what}"
                raise LoaderError(
                    f"{place}: expected {entry} {as_in}, {theirs.get(name, 'none')}; got {mine.get(name, 'none')}"
                )


def check_held(batches: list[Batch], split: str) -> None:
    """Check that all batches of a list have samples, and the entries and shapes of the first.

    Raises:
        LoaderError: One has not; the message names the batch, from 0, and the entry.
        BatchError: Samples of a batch can't be counted.
    """
    counts = [count_samples(batch) for batch in batches]
    for number, (batch, samples) in enumerate(zip(batches, counts, strict=True)):
        place = f"the loader {split!r}: batch {number} of {samples} samples"
        if not samples and any(counts):
            raise LoaderError(f"{place}: expected at least one sample; got inputs of {describe(batch[0])}")
        check_structure(batch, batches[0], place, "as in batch 0", (samples, counts[0]))


def misfit(samples: list[Any], split: str, shaped: bool) -> LoaderError | None:
    """Return the error that names the first of single samples with other entries than the one before; None without such.

    Args:
        samples: What a data set gave, pairs of inputs and targets.
        split: Name of the split.
        shaped: Whether they are to be of one shape, too.
    """
    try:
        for number, sample in enumerate(samples):
            place = f"the loader {split!r}: sample {number} of a batch of {len(samples)}"
            check_structure(
                pair_of(sample, split), pair_of(samples[0], split), place, "as in its sample 0", (-1, -1) if shaped else None
            )
    except LoaderError as error:
        return error
    return None


def _kind(inputs: Any) -> str:
    return f"a {type(inputs).__name__}" if first_tensor_of(inputs) is None else describe(inputs)
