"""Batches of a data loader: pairs of inputs and targets of one structure, with a row for every sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.task import Batch
from evaluators.tasks.loader_samples import LoaderError
from spaces.execution.batch import Nested, count_samples, describe, first_tensor_of, named_tensors, type_name


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


def check_structure(batch: Batch, other: Batch, split: str) -> None:
    """Check that batches of a split have the entries of those of the search split.

    Raises:
        LoaderError: They differ in names, types or dimensions; the message names the entry.
    """
    for what, own, wanted in zip(("inputs", "targets"), batch, other, strict=True):
        mine, theirs = _entries(own), _entries(wanted)
        for name in [*theirs, *(name for name in mine if name not in theirs)]:
            if mine.get(name) != theirs.get(name):
                entry = f"entry {name} of the {what}" if name else f"the {what}"
                raise LoaderError(
                    f"the loader {split!r}: expected {entry} as in the split search, {theirs.get(name, 'none')}; got "
                    f"{mine.get(name, 'none')}"
                )


def _entries(batch: Nested) -> dict[str, str]:
    """Return type and dimensions of every tensor by its place; of a list with an entry per sample, those of the first."""
    return {
        name: f"{type_name(tensor)} of {tensor.dim()} dimensions"
        for name, tensor in named_tensors(batch[0] if isinstance(batch, list) and batch else batch)
    }


def _kind(inputs: Any) -> str:
    return f"a {type(inputs).__name__}" if first_tensor_of(inputs) is None else describe(inputs)
