"""Position rules: operators that pick channels by their positions, such as splits and slices.

Positions stay right when the numbers that code gives for them follow the channels that lie before them
(:mod:`spaces.channels.rules.sizes`); the channels before a position that is a plain number stay.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spaces.channels.labels.atoms import varying, vector
from spaces.channels.labels.tracker import LabelTracker
from spaces.channels.rules.sizes import follow, numbers_given
from spaces.channels.rules.stored import follow_part

_SPLITTING = frozenset("split split_with_sizes unsafe_split unsafe_split_with_sizes".split())
"""Functions whose numbers are sizes of parts."""
SLICING = frozenset("__getitem__ __setitem__ narrow slice tensor_split".split())
"""Functions whose numbers are bounds of slices."""


def split(tracker: LabelTracker, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Label the parts of a split: equal parts keep equal numbers of channels unless code has a number for each."""
    labels = tracker.label_of(args[0])
    dim = kwargs.get("dim", args[2] if len(args) > 2 else 0) % labels.dim()
    parts = operator(labels, *args[1:], **kwargs)
    if dim in varying(labels):
        _follow_parts(tracker, args[1], [vector(part, dim) if part.numel() else part.reshape(-1) for part in parts])
    for part, tensor in zip(parts, output, strict=True):
        tracker.set_labels(tensor, part)


def _follow_parts(tracker: LabelTracker, size: Any, found: list[Tensor | None]) -> None:
    """Let the numbers of a split, one or a list of them, follow the channels in its parts, each of shape ``(part,)``."""
    parts = [part for part in found if part is not None]
    alone = isinstance(size, int)
    counts = numbers_given(tracker, [size] if alone else size) if tracker.function in _SPLITTING else []
    equal = all(part.shape == parts[0].shape for part in parts)
    if len(parts) < len(found) or (not equal and (alone or not any(count is not None for count in counts))):
        for part in parts:
            tracker.freeze(part, "split into parts of fixed, unequal size")
        return
    if equal and (alone or not any(count is not None for count in counts)):
        for part in parts[1:]:
            tracker.unite(parts[0], part, "split beside values of no channel")
        if counts and counts[0] is not None:
            follow(tracker, counts[0], parts[0])
        return
    # A difference follows what it is taken from.
    pairs = sorted(zip(counts, parts, strict=True), key=lambda pair: pair[0] is not None and len(pair[0].terms))
    for count, part in pairs:
        if count is None or not follow(tracker, count, part):
            tracker.freeze(part, "split into parts of fixed, unequal size")


def position(
    tracker: LabelTracker, operator: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> None:
    """Label what an operator picks by positions; the channels before a position that does not follow them stay."""
    labels = tracker.label_of(args[0])
    if name == "roll":
        dims = args[2] if len(args) > 2 else []
        if ({dim % labels.dim() for dim in dims} or set(range(labels.dim()))) & set(varying(labels)):
            tracker.freeze(labels, f"{name} picks channels by fixed position")
    else:
        dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % labels.dim()
        if output.shape != labels.shape and dim in varying(labels):
            _follow_positions(tracker, name, vector(labels, dim), labels, args[2:])
    follow_part(tracker, args[0], lambda places: operator(places, *args[1:], **kwargs), output, name == "select")
    tracker.set_labels(output, operator(labels, *args[1:], **kwargs))


def _follow_positions(
    tracker: LabelTracker, name: str, line: Tensor | None, labels: Tensor, places: tuple[int | None, ...]
) -> None:
    """Let the bounds of a slice follow the channels before them, or freeze these; ``line`` has the labels along it."""
    why = f"{name} picks channels by fixed position"
    if line is None or (len(places) > 2 and places[2] != 1):
        tracker.freeze(labels, why)
        return
    if name == "select":
        index = int(places[0] or 0)
        tracker.freeze(line[: index + 1] if index >= 0 else line[index:], why)
        return
    for bound in places[:2]:
        if bound is None or bound == 0 or bound >= len(line):
            continue
        counted = line[:bound] if bound > 0 else line[bound:]
        [count] = numbers_given(tracker, [bound]) if tracker.function in SLICING else [None]
        if count is None or not follow(tracker, count if bound > 0 else -count, counted):
            tracker.freeze(counted, why)
