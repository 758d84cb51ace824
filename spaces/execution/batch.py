"""Batches of any nesting: tensors in tuples, lists, mappings and dataclasses, moved, cut, repeated and counted alike.

Inputs of a network are a tensor, called as ``model(x)``, a mapping, called as ``model(**x)``, or a tuple, called as
``model(*x)``; anything else is one argument. Inside, parts are nested at will. A list holds an entry per sample (such as images
of different sizes); every tensor outside of a list has a row per sample, or is shared by all of them where its first
dimension has another length. What is no tensor (None, numbers, text) is passed on as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from spaces.errors import SecateursError

Nested = Any
"""A tensor, or any nesting of tensors; the type checker knows no narrower name for it."""


class BatchError(SecateursError):
    """A batch whose samples can't be counted."""


def map_tensors(change: Callable[[Tensor], Tensor], batch: Nested) -> Nested:
    """Return ``batch`` with ``change`` of every tensor in it; mappings become dicts."""
    if isinstance(batch, Tensor):
        return change(batch)
    return _rebuilt(batch, [map_tensors(change, part) for _, part in _parts(batch)])


def _rebuilt(batch: Nested, parts: list[Any]) -> Nested:
    """Return a container like ``batch``, of :func:`_parts` ``parts``; what is no container as it is."""
    if isinstance(batch, Mapping):
        return dict(zip(batch, parts, strict=True))
    if isinstance(batch, tuple):
        # A named tuple takes its fields one by one.
        return type(batch)(*parts) if _fields(batch) else tuple(parts)
    if isinstance(batch, list):
        return parts
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return dataclasses.replace(batch, **dict(zip((name for name, _ in _parts(batch)), parts, strict=True)))
    return batch


def named_tensors(batch: Nested, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of ``batch`` with its place: keys, field names and positions joined by dots; "" for a tensor alone."""
    if isinstance(batch, Tensor):
        yield name, batch
        return
    for key, part in _parts(batch):
        yield from named_tensors(part, f"{name}.{key}" if name else str(key))


def _parts(batch: Nested) -> Iterator[tuple[Any, Any]]:
    if isinstance(batch, Mapping):
        yield from batch.items()
    elif isinstance(batch, tuple | list):
        yield from zip(_fields(batch) or range(len(batch)), batch, strict=True)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        yield from ((field.name, getattr(batch, field.name)) for field in dataclasses.fields(batch) if field.init)


def _fields(batch: Any) -> tuple[str, ...]:
    """Return the names of a named tuple's fields; none of another container."""
    names: tuple[str, ...] = getattr(batch, "_fields", ())
    return names


def entries(batch: Nested, samples: int | None = None) -> dict[str, str]:
    """Return the type and the dimensions of every tensor of a batch by its place; of a list, those of its first entry.

    Args:
        batch: The batch.
        samples: Number of samples, to return shapes in place of dimensions, with N for a row per sample; entries of lists,
            which may be of any size, keep their dimensions.
    """
    return dict(_entries(batch, samples, ""))


def _entries(batch: Nested, samples: int | None, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(batch, Tensor):
        words = f"of {batch.dim()} dimensions"
        if samples is not None:
            sizes = ["N" if not place and size == samples else str(size) for place, size in enumerate(batch.shape)]
            words = f"of shape ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
        yield name, f"{type_name(batch)} {words}"
    elif isinstance(batch, list):
        yield from _entries(batch[0], None, name) if batch else ()
    else:
        for key, part in _parts(batch):
            yield from _entries(part, samples, f"{name}.{key}" if name else str(key))


def not_finite(batch: Nested) -> str | None:
    """Return the place and the count of the first values that are infinite or not a number, in words; None without such."""
    for name, tensor in named_tensors(batch):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            entry = f"entry {name}" if name else "the tensor"
            return f"{entry} of shape {tuple(tensor.shape)} holds {count} values that are infinite or not a number"
    return None


def first_tensor_of(batch: Nested) -> Tensor | None:
    """Return the first tensor of ``batch``; None if it holds none."""
    return next((tensor for _, tensor in named_tensors(batch)), None)


def to_device(batch: Nested, device: torch.device, channels_last: bool = False) -> Nested:
    """Return ``batch`` on ``device``, images of shape ``(N, C, H, W)`` in channels-last layout where asked."""

    def moved(tensor: Tensor) -> Tensor:
        if channels_last and tensor.ndim == 4:
            return tensor.to(device, non_blocking=True, memory_format=torch.channels_last)
        return tensor.to(device, non_blocking=True)

    return map_tensors(moved, batch)


def in_type(batch: Nested, dtype: torch.dtype) -> Nested:
    """Return ``batch`` with its floating-point tensors in type ``dtype``; integers and booleans stay what they are."""
    return map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, batch)


def plain_tensors(batch: Nested) -> Nested:
    """Return ``batch`` with instances of subclasses of Tensor, such as images of torchvision, as plain tensors."""
    return map_tensors(lambda tensor: tensor.as_subclass(Tensor), batch)


def count_samples(batch: Nested) -> int:
    """Return the number of samples in a batch: the length of its first list, or of its first tensor's first dimension.

    Raises:
        BatchError: The batch holds neither, or a scalar tensor alone.
    """
    found = _samples(batch)
    if found is None:
        raise BatchError(f"expected a batch with a row per sample in its first tensor, got {describe(batch)}")
    return found


def _samples(batch: Nested) -> int | None:
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else None
    if isinstance(batch, list):
        return len(batch)
    return next((found for _, part in _parts(batch) if (found := _samples(part)) is not None), None)


def select(batch: Nested, start: int, stop: int) -> Nested:
    """Return the samples from ``start`` up to ``stop`` of a batch, views where it can; entries shared by all samples stay.

    Args:
        batch: The batch, of ``N`` samples.
        start: First sample, from 0.
        stop: Sample behind the last one.
    """
    if isinstance(batch, Tensor):
        return batch[start:stop]
    return _by_sample(batch, count_samples(batch), lambda rows: rows[start:stop], lambda entries: entries[start:stop])


def single_samples(batch: Nested) -> Iterator[Nested]:
    """Yield the samples of a batch, or of a pair of inputs and targets, each as a batch of one."""
    for place in range(count_samples(batch)):
        yield select(batch, place, place + 1)


def at_length(batch: Nested, tokens: int) -> Nested:
    """Return a batch of so many tokens: cut behind them, or gone through again from the first one.

    Tokens are the second dimension of the first tensor that has one, and of every tensor in which it is of the same length.
    """
    lengths = [tensor.shape[1] for _, tensor in named_tensors(batch) if tensor.dim() > 1][:1]

    def changed(tensor: Tensor) -> Tensor:
        if list(tensor.shape[1:2]) != lengths:
            return tensor
        return tensor[:, torch.arange(tokens, device=tensor.device) % tensor.shape[1]]

    return map_tensors(changed, batch)


def repeat(batch: Nested, times: int) -> Nested:
    """Return a batch in which every sample of ``batch`` comes ``times`` times in a row."""
    return _by_sample(
        batch,
        count_samples(batch),
        lambda rows: rows.repeat_interleave(times, dim=0),
        lambda entries: [entry for entry in entries for _ in range(times)],
    )


def reorder(batch: Nested, order: Tensor) -> Nested:
    """Return a batch of the samples at the positions in ``order``, int64 of shape ``(M,)``."""
    places = order.tolist()
    return _by_sample(
        batch,
        count_samples(batch),
        lambda rows: rows[order.to(rows.device)],
        lambda entries: [entries[place] for place in places],
    )


def _by_sample(
    part: Nested, samples: int, rows: Callable[[Tensor], Tensor], entries: Callable[[list[Any]], list[Any]]
) -> Nested:
    """Return ``part`` with its rows and its lists of one entry per sample changed."""
    if isinstance(part, Tensor):
        return rows(part) if part.dim() and len(part) == samples else part
    if isinstance(part, list) and len(part) == samples:
        return entries(part)
    return _rebuilt(part, [_by_sample(inner, samples, rows, entries) for _, inner in _parts(part)])


def join(batches: list[Nested]) -> Nested:
    """Return one batch of the samples of several of one structure; rows and lists are joined, what all share stays.

    Raises:
        BatchError: There is no batch, or the batches differ in structure or in the shape of a sample.
    """
    if not batches:
        raise BatchError("expected batches to join, got none")
    return _joined(batches, [_samples(batch) or 0 for batch in batches])


def _joined(parts: list[Nested], samples: list[int]) -> Nested:
    first = parts[0]
    if isinstance(first, Tensor) and all(isinstance(part, Tensor) for part in parts):
        if all(part.dim() and len(part) == count for part, count in zip(parts, samples, strict=True)):
            if len({part.shape[1:] for part in parts}) > 1:
                raise BatchError(f"expected samples of one shape, got {_told(parts)}")
            return torch.cat(parts)
        return first
    if isinstance(first, list) and all(isinstance(part, list) for part in parts):
        return [entry for part in parts for entry in part]
    keys = [key for key, _ in _parts(first)]
    if any([key for key, _ in _parts(part)] != keys or type(part) is not type(first) for part in parts):
        raise BatchError(f"expected batches of one structure, got {_told(parts)}")
    joined = [_joined([one for _, one in column], samples) for column in zip(*map(_parts, parts), strict=True)]
    return _rebuilt(first, joined)


def _told(parts: list[Nested]) -> str:
    """Return the kinds of batches among several in words, each once."""
    return " and ".join(dict.fromkeys(describe(part) for part in parts))


def describe(batch: Nested) -> str:
    """Return a batch in words: ``shape (N, 3, 8, 8)`` of a tensor, else ``entries`` with name, shape and type of each."""
    if isinstance(batch, Tensor):
        return f"shape {tuple(batch.shape)}"
    found = [f"{name} {tuple(tensor.shape)} {type_name(tensor)}" for name, tensor in named_tensors(batch)]
    return f"entries {', '.join(found)}" if found else f"type {type(batch).__name__} without a tensor"


def type_name(tensor: Tensor) -> str:
    """Return the name of a tensor's element type, such as ``int64``."""
    return str(tensor.dtype).removeprefix("torch.")
