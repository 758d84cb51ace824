"""Attention by heads: products of activations that every head computes by itself, so that a head is a unit that may go."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from spaces.channels.labels.adoption import adopted
from spaces.channels.labels.atoms import along, varying, vector
from spaces.channels.labels.beside import Beside
from spaces.channels.labels.trace import Scores
from spaces.channels.labels.tracker import LabelTracker
from spaces.channels.units import HEADS, KV_GROUPS, QK_WIDTH, V_WIDTH
from spaces.layers.layer_kind import LayerKind
from spaces.layers.mask_hooks import MaskHook


class HeadProduct(LayerKind):
    """Products of attention; not registered, since it is no kind of module and has no weights."""

    name = "head_product"
    modules = ()
    produces = False

    def trace(self, tracker: LabelTracker, output: object, *args: object, **kwargs: object) -> None:
        """Do nothing: the rule of the function has followed the heads."""

    def mask_hook(self, channel_dim: int, groups: int) -> MaskHook | None:
        """Return None: a head has no effect on the others."""
        return None

    def writers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return no tensor."""
        return ()


def attend(
    tracker: LabelTracker,
    output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> None:
    """Label the result of ``scaled_dot_product_attention``, its arguments of shape ``(..., heads, length, width)``.

    Places within heads leave queries and keys together; values pass theirs on. What else the arguments hold is frozen.
    """
    name = "scaled_dot_product_attention"
    parts, lines = (query, key, value), []
    contracted, passed = _contracted(tracker, name, query, key, -1), _passed(tracker, value)
    if passed is None and (units := tracker.beside.find(value)) is not None:
        tracker.freeze(units.atoms, f"{name} with values that lie otherwise")
    for part in parts:
        tracker.heads.attend(part)
        lines.append(_line(tracker, part))
    dims = {dim for dim, _ in filter(None, lines)}
    if len(dims) != 1 or any(one is None and bool(tracker.labels(part).any()) for part, one in zip(parts, lines, strict=True)):
        tracker.opaque(name, [*parts, *([] if attn_mask is None else [attn_mask])])
        for units in filter(None, map(tracker.beside.find, parts)):
            tracker.freeze(units.atoms, f"{name} is not handled")
        return
    [dim] = dims
    count = output.shape[dim]
    spread = []
    for part, found in zip(parts, lines, strict=True):
        size = part.shape[dim] if part.dim() >= -dim else 1
        line = torch.zeros(size, dtype=torch.int64) if found is None else found[1]
        if size == 1 and found is None:
            continue
        spread.append(line.repeat_interleave(count // size) if enable_gqa else line)
    _join(tracker, name, spread)
    heads = spread[0]
    if isinstance(attn_mask, Tensor):
        _beside(tracker, attn_mask, dim, heads, query)
    tracker.set_labels(output, along(heads, dim % output.dim(), output.shape))
    _score(tracker, query, heads, contracted, scale is None)
    _pass_on(tracker, output, passed)
    # One operator, and one record: every place of a query, and of a value, costs as much.
    every = ((contracted, query.shape[-1]), (passed, value.shape[-1]))
    within = torch.cat([torch.zeros(size, dtype=torch.int64) if own is None else own for own, size in every])
    _record(tracker, prod(query.shape[:-1]) * key.shape[-2] * len(within), heads, within)


def multiply_heads(tracker: LabelTracker, name: str, factors: tuple[Tensor, Tensor], added: Any, output: Tensor) -> bool:
    """Label a batched product of activations, whose batch is heads; return False where it is of anything else.

    Args:
        tracker: The tracker of the pass.
        name: Name of the operator.
        factors: The factors, of shapes ``(heads, n, k)`` and ``(heads, k, m)``.
        added: What is added to the product; None for nothing.
        output: The result.
    """
    for factor in factors:
        tracker.heads.attend(factor)
    lines = [_line(tracker, factor) for factor in factors]
    if lines[0] is None or lines[1] is None:
        return False
    contracted, passed = _contracted(tracker, name, *factors, -2), _passed(tracker, factors[1])
    _join(tracker, name, [lines[0][1], lines[1][1]])
    heads = lines[0][1]
    if isinstance(added, Tensor):
        _beside(tracker, added, -3, heads, output)
    tracker.set_labels(output, along(heads, 0, output.shape))
    _score(tracker, factors[0], heads, contracted, False)
    _pass_on(tracker, output, passed)
    _record(tracker, factors[0].numel() * factors[1].shape[-1], heads, passed if contracted is None else contracted)
    return True


def heads_meet(tracker: LabelTracker, args: tuple[Any, ...]) -> bool:
    """Return True if a product is one of activations by heads; :func:`multiply_heads` follows what lies beside these."""
    factors = args[-2:]
    return all(isinstance(one, Tensor) and one.dim() == 3 and _line(tracker, one) is not None for one in factors)


def _line(tracker: LabelTracker, tensor: Tensor) -> tuple[int, Tensor] | None:
    """Return the dimension of the heads of a factor, from the end, and their labels; None where it has no heads alone."""
    labels = tracker.labels(tensor)
    wide = varying(labels)
    line = vector(labels, wide[0]) if len(wide) == 1 and wide[0] < tensor.dim() - 2 else None
    return None if line is None else (wide[0] - tensor.dim(), line)


def _join(tracker: LabelTracker, name: str, lines: list[Tensor]) -> None:
    """Unite the heads that work together, all lines of one length, and note the kind of unit that they make."""
    for line in lines[1:]:
        tracker.unite(lines[0], line, f"{name} with heads of no channel")
    distinct = {len(torch.unique(line)) for line in lines}
    tracker.trace.units.append((HEADS if len(distinct) == 1 else KV_GROUPS, lines[0]))


def _beside(tracker: LabelTracker, mask: Tensor, dim: int, heads: Tensor, like: Tensor) -> None:
    """Unite heads with what is added to their scores, or freeze them where it has values for a fixed number of heads.

    Args:
        tracker: The tracker of the pass.
        mask: What is added.
        dim: Dimension of the heads, from the end.
        heads: Their labels, int64 of shape ``(heads,)``.
        like: A tensor whose labels are those of the heads; a stored mask takes them.
    """
    if mask in tracker.fresh:
        return
    labels = adopted(tracker, mask, [like])
    if bool(labels.any()):
        line = vector(labels, dim) if mask.dim() >= -dim else None
        if line is None or len(line) != len(heads):
            tracker.opaque("a mask with channels", [mask])
            tracker.freeze(heads, "its mask has channels")
        else:
            tracker.unite(line, heads, "with a mask of no channel")
    elif mask.dim() >= -dim and mask.shape[dim] > 1 and mask.stride(dim) != 0:
        tracker.freeze(heads, "its mask has values for a fixed number of heads")


def _contracted(tracker: LabelTracker, name: str, left: Tensor, right: Tensor, dim: int) -> Tensor | None:
    """Return the places within heads that two factors are multiplied over: the last of ``left``, and ``dim`` of ``right``.

    None where they stay, which are then frozen: those of one factor alone, and those that can't be masked.
    """
    first, second = (tracker.beside.find(one) for one in (left, right))
    over = [one.atoms if one is not None and one.dim == own else None for one, own in ((first, -1), (second, dim))]
    if over[0] is None or over[1] is None or not tracker.masking.zeroes(over[0]):
        for one in (first, None if second is not None and dim == -2 and second.dim == -1 else second):
            if one is not None:
                tracker.freeze(one.atoms, f"{name} reads places within heads whose number is fixed")
        return None
    tracker.unite(over[0], over[1], f"{name} with heads of a fixed width")
    tracker.trace.units.append((QK_WIDTH, over[0]))
    return over[0]


def _passed(tracker: LabelTracker, values: Tensor) -> Tensor | None:
    """Return the places within heads that a product passes on, the last of ``values``; None where they stay."""
    units = tracker.beside.find(values)
    return units.atoms if units is not None and units.dim == -1 else None


def _pass_on(tracker: LabelTracker, output: Tensor, places: Tensor | None) -> None:
    if places is not None:
        tracker.trace.units.append((V_WIDTH, places))
        tracker.beside.set(output, Beside(-1, places))
        tracker.memory.label_beside(output, places)


def _score(tracker: LabelTracker, query: Tensor, heads: Tensor, places: Tensor | None, follows: bool) -> None:
    """Note the scores of queries over places that may go."""
    if places is None:
        return
    queries = tracker.heads.written(query)
    if queries is None:
        tracker.freeze(places, "what writes the queries is not known")
        return
    tracker.trace.scores.append(Scores(places, heads, queries, follows))


def _record(tracker: LabelTracker, macs: int, heads: Tensor, places: Tensor | None) -> None:
    none = torch.zeros(1, dtype=torch.int64)
    within = none if places is None else places
    tracker.pass_by(HeadProduct(), within, none, macs / (len(heads) * len(within)), 0, heads)
