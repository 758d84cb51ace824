"""Operator rules: how labels pass through the operators between the layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from spaces.channels.kinds.heads import heads_meet, multiply_heads
from spaces.channels.kinds.products import PRODUCTS, multiply
from spaces.channels.labels.adoption import adopted
from spaces.channels.labels.atoms import compact, varying
from spaces.channels.labels.tracker import LabelTracker
from spaces.channels.rules import positions
from spaces.channels.rules.heads import lay_out
from spaces.channels.rules.reductions import ALONG_DIM, REDUCTIONS, reduce, run_along
from spaces.channels.rules.sizes import FACTORIES
from spaces.channels.rules.stored import follow_part, joined_labels, resized

VIEWS = frozenset("view reshape _unsafe_view _reshape_alias flatten unflatten view_as".split())
SAME = frozenset("_to_copy to clone contiguous lift_fresh detach alias".split())
MOVES = (
    VIEWS
    | SAME
    | frozenset(
        "as_strided permute transpose t expand squeeze unsqueeze cat concat concatenate stack movedim repeat flip copy_ "
        "expand_as swapaxes unbind pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle".split()
    )
)
SPLITS = frozenset("split split_with_sizes chunk tensor_split unsafe_split unsafe_chunk".split())
POSITIONS = frozenset("slice select roll narrow".split())
WINDOWS = ("avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool", "upsample", "reflection_pad", "replication_pad")
ACTIVATIONS = frozenset(
    "hardswish hardsigmoid hardtanh hardshrink softshrink silu gelu mish elu selu celu leaky_relu rrelu softplus log_sigmoid "
    "prelu _prelu_kernel dropout native_dropout bernoulli normal".split()
)
LIKE = frozenset("zeros_like ones_like empty_like full_like rand_like randn_like".split())
"""Operators whose result has the channels of their input and none of its values."""
DRAWS = frozenset("normal uniform exponential cauchy log_normal geometric random zero fill bernoulli".split())
"""Operators that write over a tensor what has nothing to do with its values."""
PICKS = frozenset("index_select gather index".split())
"""Operators that pick elements by numbers that they are given in a tensor."""
_UNFOLLOWED = frozenset("copy_ as_strided as_strided_".split())
IGNORED = frozenset("sym_size size".split())


def propagate(tracker: LabelTracker, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Give the outputs of an operator their labels."""
    name = operator.overloadpacket.__name__
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    if name in VIEWS:
        tracker.heads.count(args[0])
    elementwise = torch.Tag.pointwise in operator.tags or name in SAME or name.rstrip("_") in ACTIVATIONS
    moves = _moves(name)
    if not moves and not (name in PRODUCTS and heads_meet(tracker, args)):
        tracker.beside.follow(tracker, name, tensors, output, elementwise)
    _propagate(tracker, operator, name, args, kwargs, tensors, output)
    if moves and name not in VIEWS:

        def moved(units_of: Callable[[Tensor], Tensor]) -> Any:
            given = tree_map(lambda one: units_of(one).detach() if isinstance(one, Tensor) else one, (args, kwargs))
            return operator(*given[0], **given[1])

        tracker.beside.move(tracker, name, tensors, moved, output)


def _propagate(
    tracker: LabelTracker,
    operator: Any,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensors: list[Tensor],
    output: Any,
) -> None:
    """Give the outputs of an operator the labels of their channels; :func:`propagate` follows the units beside them."""
    stored = any(id(tensor) in tracker.names for tensor in tensors)
    labelled = any(tensor in tracker.labelled for tensor in tensors)
    if name in PRODUCTS and multiply(tracker, name, args, output):
        return
    if name in FACTORIES or (not labelled and any(tensor in tracker.fresh for tensor in tensors)):
        _keep_fresh(tracker, operator, name, tensors, output)
        return
    if not (labelled or stored) or name in IGNORED:
        return
    base = name.rstrip("_")
    if name not in VIEWS:
        _follow_heads(tracker, operator, base, args, kwargs, tensors, output)
    if name in ("bmm", "baddbmm") and multiply_heads(tracker, name, args[-2:], args[0] if len(args) > 2 else None, output):
        return
    if not labelled and name not in MOVES:
        _pass_stored(tracker, operator, base, args, kwargs, output)
        return
    empty = [isinstance(leaf, Tensor) and not leaf.numel() for leaf in tree_flatten(output)[0]]
    if all(empty) if base in SPLITS else any(empty):
        tracker.opaque(f"{name} leaves nothing of the example, and", tensors)
        return
    if name in LIKE or (base in DRAWS and base != name):
        tracker.set_labels(output, tracker.labels(args[0]))
    elif name in MOVES or base in MOVES:
        _move(tracker, operator, args, kwargs, output)
    elif base in SPLITS:
        positions.split(tracker, operator, args, kwargs, output)
    elif base in POSITIONS:
        positions.position(tracker, operator, base, args, kwargs, output)
    elif name in PICKS:
        _pick(tracker, operator, name, args, output)
    elif name == "_pack_padded_sequence":
        _pack(tracker, args[0], output[0])
    elif base == "constant_pad_nd":
        _pad(tracker, args, output)
    elif (torch.Tag.pointwise in operator.tags or base in ACTIVATIONS) and not isinstance(output, bool):
        _pointwise(tracker, base, tensors, output)
    elif base in REDUCTIONS:
        reduce(tracker, base, args, kwargs, output)
    elif base.lstrip("_").startswith(WINDOWS):
        _window(tracker, base, args, output)
    elif base in ALONG_DIM:
        run_along(tracker, base, args, output)
    else:
        tracker.opaque(base, tensors)


def _keep_fresh(tracker: LabelTracker, operator: Any, name: str, tensors: list[Tensor], output: Any) -> None:
    """Mark what is made of numbers alone, or by element of such; the sliced network shows whether sizes were fixed in code."""
    even = torch.Tag.pointwise in operator.tags or name in SAME or name.rstrip("_") in DRAWS | ACTIVATIONS
    alone = all(tensor in tracker.fresh or tensor.numel() == 1 for tensor in tensors)
    if isinstance(output, Tensor) and (name in FACTORIES or (even and alone)):
        alike = (one for one in tensors if one in tracker.fresh and one.shape == output.shape)
        tracker.fresh[output] = next((tracker.fresh[one] for one in alike), [])


def _move(tracker: LabelTracker, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    name = operator.overloadpacket.__name__
    view = tracker.view_of(args[0]) if isinstance(args[0], Tensor) and name not in _UNFOLLOWED else None
    if view is not None:
        tracker.views.follow(view, lambda places: _moved(operator, name, args, kwargs, output, places), output)
    if name in SAME:
        tracker.set_labels(output, tracker.label_of(args[0]))
        return
    if name == "copy_":
        _write(tracker, args[0], tracker.label_of(args[1]).expand(args[0].shape))
        return
    if name in VIEWS:
        lay_out(tracker, args[0], output)
        return
    if name in ("as_strided", "as_strided_"):
        if args[0].numel() != output.numel() or args[0].shape != output.shape:
            tracker.opaque(name, [args[0]])
        else:
            tracker.set_labels(output, tracker.label_of(args[0]))
        return

    labels_of = joined_labels(tracker, operator, args, kwargs)
    moved = operator(*tree_map(labels_of, args), **tree_map(labels_of, kwargs))
    if isinstance(output, Tensor):
        tracker.set_labels(output, tracker.rectangular(moved))
    else:
        for part, labels in zip(output, moved, strict=True):
            tracker.set_labels(part, tracker.rectangular(labels))


def _moves(name: str) -> bool:
    """Return True for an operator that moves elements, and has neither values nor sizes of its own."""
    base = name.rstrip("_")
    moving = name in MOVES or base in MOVES or base in SPLITS | POSITIONS - {"roll"}
    return moving and name not in SAME | _UNFOLLOWED and base != "copy"


def _follow_heads(
    tracker: LabelTracker,
    operator: Any,
    base: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensors: list[Tensor],
    output: Any,
) -> None:
    """Follow what views have laid out in heads through an operator that is no view."""
    if _moves(base):

        def move(laid: Callable[[Tensor], Tensor | None]) -> Any:
            def labels_of(value: Any) -> Any:
                found = laid(value) if isinstance(value, Tensor) else None
                return value if not isinstance(value, Tensor) else (tracker.labels(value) if found is None else found).detach()

            return operator(*tree_map(labels_of, args), **tree_map(labels_of, kwargs))

        tracker.heads.move(tensors, move, output)
    else:
        tracker.heads.follow(tensors, output)


def _write(tracker: LabelTracker, part: Tensor, labels: Tensor) -> None:
    """Label what is written over a tensor; over a part of one, it has the channels that the whole has there."""
    before = tracker.found(part)
    if before is not None and part.numel() * part.element_size() < part.untyped_storage().nbytes():
        old, new = torch.broadcast_tensors(compact(before), compact(labels))  # type: ignore[no-untyped-call]
        if bool(old.any()):
            tracker.unite(old, new, "written over values of no channel")
    tracker.set_labels(part, labels)


def _pass_stored(
    tracker: LabelTracker, operator: Any, base: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> None:
    """Follow a stored tensor, which has met no channels yet, through a slice, a change of its size, or arithmetic."""
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor) and value.numel() > 1]
    if base in POSITIONS and base != "roll":
        follow_part(tracker, args[0], lambda places: operator(places, *args[1:], **kwargs), output, base == "select")
    elif base.lstrip("_").startswith(WINDOWS) and isinstance(output, Tensor):
        follow_part(tracker, args[0], lambda places: resized(places, _spatial(base), output), output)
    elif base in PICKS:
        _pick(tracker, operator, base, args, output)
    elif torch.Tag.pointwise in operator.tags and all(id(tensor) in tracker.names for tensor in tensors):
        _pointwise(tracker, base, tensors, output)


def _spatial(name: str) -> int:
    """Return the number of dimensions that an operator works over, which is part of its name; 2 where it is not."""
    return next((int(digit) for digit in name if digit.isdigit()), 2)


def _moved(operator: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor, places: Tensor) -> Tensor:
    """Return where an operator has moved the ``places`` of its first argument."""
    if name in SAME:
        return places
    made: Tensor = places.reshape(output.shape) if name in VIEWS else operator(places, *args[1:], **kwargs)
    return made


def _pick(tracker: LabelTracker, operator: Any, name: str, args: tuple[Any, ...], output: Tensor) -> None:
    labels = tracker.label_of(args[0])
    if name == "index":
        given = [one for one in args[1] if one is not None]
        followed = all(one.dtype != torch.bool for one in given)
        touched = {dim for dim, one in enumerate(args[1]) if one is not None}
    else:
        followed, touched = True, {args[1] % labels.dim()}
    others = [dim for dim in range(labels.dim()) if dim not in touched]
    if name == "gather":
        followed = all(output.shape[dim] == labels.shape[dim] for dim in others)
    if not followed or touched & set(varying(labels)):
        tracker.opaque(name, [args[0]])
        return
    picked = tree_map(_on_processor, args[1:])
    follow_part(tracker, args[0], lambda places: operator(places, *picked), output)
    tracker.set_labels(output, tracker.rectangular(operator(labels, *picked)))


def _on_processor(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def _pack(tracker: LabelTracker, padded: Tensor, packed: Tensor) -> None:
    """Label the steps of sequences, one below the other, with the channels that the padded sequences have in every step."""
    labels = tracker.label_of(padded)
    if {0, 1} & set(varying(labels)):
        tracker.opaque("_pack_padded_sequence", [padded])
        return
    tracker.set_labels(packed, labels[0, 0].expand(packed.shape))


def _pad(tracker: LabelTracker, args: tuple[Any, ...], output: Tensor) -> None:
    labels, padding = tracker.labels(args[0]), args[1]
    small = compact(labels)
    for place in range(len(padding) // 2):
        dim = labels.dim() - 1 - place
        before, after = padding[2 * place], padding[2 * place + 1]
        if (before or after) and small.shape[dim] > 1:
            small = torch.constant_pad_nd(small.transpose(dim, -1), [max(before, 0), max(after, 0)], 0).transpose(dim, -1)
    if any(size not in (1, full) for size, full in zip(small.shape, output.shape, strict=True)):
        tracker.freeze(labels, "channels cropped at fixed positions")
        return
    tracker.set_labels(output, small.expand(output.shape))


def _pointwise(tracker: LabelTracker, name: str, tensors: list[Tensor], output: Any) -> None:
    first = output if isinstance(output, Tensor) else output[0]
    shape = first.shape
    joined: Tensor | None = None
    sources: list[tuple[Tensor, list[int]]] = []
    for tensor in tensors:
        if tensor.dim() > len(shape):
            continue
        if tensor in tracker.fresh:
            continue
        labels = adopted(tracker, tensor, tensors)
        # What is expanded to a size follows it, or fails in the sliced network.
        size = [1 if tensor.stride(dim) == 0 else full for dim, full in enumerate(tensor.shape)]
        sources.append((compact(labels), size))
    for labels, _ in sources:
        if bool(labels.any()):
            if joined is None:
                joined = labels
            else:
                both = torch.broadcast_tensors(joined, labels)  # type: ignore[no-untyped-call]
                tracker.atoms.unite(*both)
                joined = torch.maximum(*both)
    if joined is None:
        return
    joined = joined.reshape((1,) * (len(shape) - joined.dim()) + tuple(joined.shape))
    wide = [dim for dim, size in enumerate(joined.shape) if size > 1]
    for labels, size in sources:
        full = (1,) * (len(shape) - len(size)) + tuple(size)
        spread = labels.reshape((1,) * (len(shape) - labels.dim()) + tuple(labels.shape)).expand(joined.shape)
        if any(full[dim] > 1 for dim in wide):
            tracker.freeze(joined[spread == 0], f"{name} with values of no channel and a fixed size")
    tracker.set_labels(first, tracker.rectangular(joined.expand(shape)))


def _window(tracker: LabelTracker, name: str, args: tuple[Any, ...], output: Any) -> None:
    first = output if isinstance(output, Tensor) else output[0]
    labels = tracker.labels(args[0])
    spatial = _spatial(name)
    small = compact(labels)
    follow_part(tracker, args[0], lambda places: resized(places, spatial, first), first)
    if any(size > 1 for size in small.shape[-spatial:]):
        tracker.freeze(labels, f"{name} over the channels")
        return
    tracker.set_labels(first, small.expand(first.shape))
