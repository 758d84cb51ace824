"""Size rules: the numbers of channels that code gives to functions are made to follow the channels that they count.

An attribute by which code gives a number of channels is set with every cut (:class:`SizeAttribute`); a number that was read off
a tensor's shape follows by itself. Channels that one number counts in several places are united, place by place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spaces.channels.labels.atoms import varying, vector
from spaces.channels.labels.counts import Count, Origin, Term, counted_shape, counts_in
from spaces.channels.labels.tracker import LabelTracker
from spaces.execution.code_places import nearest_line, place_of

SHAPING = frozenset("view reshape expand unflatten broadcast_to".split())
"""Functions that are given the shape of their result."""
FACTORIES = frozenset("rand randn zeros ones full empty new_zeros new_ones new_empty new_full".split())
"""Functions that make a tensor of numbers alone."""


def shape_with_counts(tracker: LabelTracker, tensor: Tensor, shape: torch.Size) -> torch.Size:
    """Return the shape of a tensor with counts for its numbers of channels."""
    labels = tracker.found(tensor)
    if labels is None:
        return shape
    dims = {dim: line for dim in varying(labels) if (line := vector(labels, dim)) is not None}
    return counted_shape(shape, dims) if dims else shape


def follow_shape(tracker: LabelTracker, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Let the counts that a function was given for the shape of its result follow the channels in the result."""
    if function not in SHAPING or not isinstance(output, Tensor) or not counts_in((args, kwargs)):
        return
    labels = tracker.found(output)
    if labels is None:
        return
    given = _shape_given((*args, *kwargs.values()), output.shape)
    units = tracker.beside.find(output)
    for count in [] if units is None else counts_in(given[units.dim]):
        if units is not None and not _follow_width(tracker, count, labels, units.atoms):
            tracker.freeze(units.atoms, "the width of heads follows from other numbers of channels")
    for dim in varying(labels):
        line = vector(labels, dim)
        if line is not None:
            for count in counts_in(given[dim]):
                follow(tracker, count, line)


def _follow_width(tracker: LabelTracker, count: Count, labels: Tensor, places: Tensor) -> bool:
    """Let a count follow the places within heads: an attribute, or channels as many as heads times places, over the heads.

    Of any other count, places that stay would keep the channels of others; return False for it.
    """
    if len(count.terms) > 1 or count.other or count.terms[0].times != 1:
        return False
    [term] = count.terms
    if term.divisor == 1:
        return bool(term.origin.attribute) and follow(tracker, count, places)
    wide, whole = varying(labels), _known(tracker, term.origin)
    heads = vector(labels, wide[0]) if len(wide) == 1 else None
    if heads is None or whole is None or len(heads) != term.divisor or len(whole) != len(heads) * len(places):
        return False
    _join(tracker, whole, tracker.trace.pairs.join(heads.repeat_interleave(len(places)), places.repeat(len(heads))))
    return True


def follow(tracker: LabelTracker, count: Count, labels: Tensor) -> bool:
    """Let a count follow channels, as many as it is, of labels int64 of shape ``(count,)``; return False where it can't."""
    paired = tracker.trace.pairs.lines(labels)
    if paired is not None and (len(count.terms) > 1 or abs(count.terms[0].times) > 1):
        return _follow_pairs(tracker, count, labels, *paired)
    terms = _chosen(tracker, count, labels)
    added = [term for term in terms if term.times > 0]
    taken = [_counted(tracker, term) for term in terms if term.times < 0]
    if taken:
        known = [part for part in taken if part is not None]
        if len(known) < len(taken) or len(added) != 1:
            return False
        before, behind = torch.cat([*known, labels]), torch.cat([labels, *known])
        whole = _counted(tracker, added[0])
        labels = behind if whole is not None and torch.equal(whole, behind) else before
    if sum(term.value for term in added) != len(labels):
        return False
    parts = torch.split_with_sizes(labels, [term.value for term in added])
    return all(_tie(tracker, term, part) for term, part in zip(added, parts, strict=True))


def _follow_pairs(tracker: LabelTracker, count: Count, labels: Tensor, heads: Tensor, places: Tensor) -> bool:
    """Let a count follow pairs: of a product of two counts each follows its own units, of any other the places stay."""
    if len(count.terms) == len(count.other) == 1 and count.terms[0].divisor == count.other[0].divisor == 1:
        for first, second in ((count.terms[0], count.other[0]), (count.other[0], count.terms[0])):
            if (first.origin.value, second.origin.value) == (len(heads), len(places)) and (
                len(heads) != len(places) or _suits(tracker, first.origin, heads) or _suits(tracker, second.origin, places)
            ):
                return _tie(tracker, Term(first.origin), heads) and _tie(tracker, Term(second.origin), places)
    tracker.freeze(places, "the width of heads is counted together with other numbers")
    return follow(tracker, count, heads.repeat_interleave(len(places)))


def _suits(tracker: LabelTracker, origin: Origin, labels: Tensor) -> bool:
    known = _known(tracker, origin)
    return known is not None and np.array_equal(tracker.atoms.roots(known), tracker.atoms.roots(labels))


def _chosen(tracker: LabelTracker, count: Count, labels: Tensor) -> tuple[Term, ...]:
    """Return the terms by which a count counts ``labels``: of a product of two counts, the other ones if they are in blocks."""
    if len(count.terms) == len(count.other) == 1:
        [first], [second] = count.terms, count.other
        unknown = _known(tracker, first.origin) is None
        if _blocks(second, labels) is not None and (unknown or _known(tracker, second.origin) is not None):
            return count.other
    return count.terms


def _blocks(term: Term, labels: Tensor) -> Tensor | None:
    """Return the label of every block of ``term.times`` labels that are the same; None where they are not."""
    if term.divisor > 1 or len(labels) != term.value:
        return None
    rows = labels.reshape(-1, term.times)
    return rows[:, 0] if bool((rows == rows[:, :1]).all()) else None


def numbers_given(tracker: LabelTracker, numbers: Sequence[int]) -> list[Count | None]:
    """Return the counts among ``numbers``, which an operator was given by the running function; None for plain numbers."""
    whole = [value for value in tracker.given if isinstance(value, tuple | list) and list(value) == list(numbers)]
    if whole:
        return [next(iter(counts_in(number)), None) for number in whole[0]]
    counts = counts_in(tracker.given)
    if tracker.function == "narrow":
        start, length = [value for value in tracker.given if isinstance(value, int)][-2:]
        counts += counts_in([start + length])
    return [next((count for count in counts if count == number), None) for number in numbers]


def _shape_given(values: tuple[Any, ...], shape: torch.Size) -> list[Any]:
    """Return the numbers among ``values`` that are the sizes of a result of ``shape``, by dimension; None where not given."""
    lists = [value for value in values if isinstance(value, tuple | list)]
    lists.append([value for value in values if isinstance(value, int)])
    for numbers in lists:
        if len(numbers) == len(shape) and all(one in (size, -1) for one, size in zip(numbers, shape, strict=True)):
            return list(numbers)
    counts = counts_in(values)
    return [next((count for count in counts if count == size), None) for size in shape]


def _known(tracker: LabelTracker, origin: Origin) -> Tensor | None:
    return origin.labels if origin.labels is not None else tracker.counted.get((origin.module, origin.attribute))


def _counted(tracker: LabelTracker, term: Term) -> Tensor | None:
    """Return the labels of the channels that a term counts, its sign left out; None where they are not known."""
    known = _known(tracker, term.origin)
    if known is None or term.divisor == 1:
        return None if known is None else known.repeat(abs(term.times))
    rows = known.reshape(term.divisor, -1)
    for row in rows[1:]:
        _join(tracker, rows[0], row)
    return rows[0]


def _tie(tracker: LabelTracker, term: Term, labels: Tensor) -> bool:
    """Let the origin of a term follow the channels of ``labels``, as many as the term stands for."""
    blocks = _blocks(term, labels)
    if term.divisor > 1:
        if term.times > 1:
            return False
        rows = labels.expand(term.divisor, -1)
    else:
        rows = labels.reshape(term.times, -1) if blocks is None else blocks.reshape(1, -1)
    known = _known(tracker, term.origin)
    if known is None:
        known = tracker.counted[term.origin.module, term.origin.attribute] = rows.reshape(-1)[: term.origin.value].clone()
    for row, own in zip(rows, known.reshape(term.divisor, -1).expand(len(rows), -1), strict=True):
        _join(tracker, own, row)
    return True


def _join(tracker: LabelTracker, first: Tensor, second: Tensor) -> None:
    """Note that one number counts both of two sets of channels."""
    if not torch.equal(first, second):
        tracker.together.append((first, second, tracker.where, nearest_line()))


def settle(tracker: LabelTracker) -> None:
    """Unite the channels that one number counts, place by place, unless equally many of both stay anyway.

    Counts that tensors were made with, which have met channels since, follow these first.
    """
    for call in tracker.trace.calls:
        for made in call.returns if call.counts and call.function in FACTORIES else ():
            if made is not None and made.labels is not None:
                for dim in varying(made.labels):
                    count = next((count for count in call.counts if count == made.shape[dim]), None)
                    if count is not None and (line := vector(made.labels, dim)) is not None:
                        follow(tracker, count, line)
    apart = [
        (first, second, where, line)
        for first, second, where, line in tracker.together
        if not np.array_equal(np.sort(tracker.atoms.roots(first)), np.sort(tracker.atoms.roots(second)))
    ]
    for first, second, where, code in apart:
        place = "" if code is None else place_of(*code)
        reason = ", at ".join(filter(None, (f"{where}: counted together with values of no channel", place)))
        tracker.atoms.unite(first, second)
        tracker.atoms.freeze(first[second == 0], reason)
        tracker.atoms.freeze(second[first == 0], reason)
