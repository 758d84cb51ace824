"""Attention by heads: products of activations that every head computes by itself, so that a head is a unit that may go."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from spaces.channels.labels.adoption import adopted
from spaces.channels.labels.atoms import along, varying, vector
from spaces.channels.labels.tracker import LabelTracker
from spaces.channels.units import HEADS, KV_GROUPS
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

    What else the arguments hold, such as channels along the width, which are contracted, is frozen.
    """
    name = "scaled_dot_product_attention"
    parts, lines = (query, key, value), []
    for part in parts:
        tracker.heads.attend(part)
        lines.append(_line(tracker, part))
    dims = {dim for dim, _ in filter(None, lines)}
    if len(dims) != 1 or any(one is None and bool(tracker.labels(part).any()) for part, one in zip(parts, lines, strict=True)):
        tracker.opaque(name, [*parts, *([] if attn_mask is None else [attn_mask])])
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
    macs = prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    _record(tracker, macs, heads)


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
    _join(tracker, name, [lines[0][1], lines[1][1]])
    heads = lines[0][1]
    if isinstance(added, Tensor):
        _beside(tracker, added, -3, heads, output)
    tracker.set_labels(output, along(heads, 0, output.shape))
    _record(tracker, factors[0].numel() * factors[1].shape[-1], heads)
    return True


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


def _record(tracker: LabelTracker, macs: int, heads: Tensor) -> None:
    none = torch.zeros(1, dtype=torch.int64)
    tracker.pass_by(HeadProduct(), none, none, macs / len(heads), 0, heads)
