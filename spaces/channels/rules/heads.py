"""View rules: channels that code lays out anew, among them those that it parts into heads and places within every head."""

from __future__ import annotations

from torch import Tensor

from spaces.channels.labels.atoms import along, compact, varying, vector
from spaces.channels.labels.beside import Beside
from spaces.channels.labels.heads import HeadDims
from spaces.channels.labels.tracker import LabelTracker


def lay_out(tracker: LabelTracker, before: Tensor, output: Tensor) -> None:
    """Label a view: its elements are those of ``before``, in order."""
    dims = tracker.heads.lay(output, before, lambda: tracker.labels(before))
    labels, units = tracker.label_of(before).reshape(output.shape), tracker.beside.find(before)
    if units is not None:
        _joined(tracker, labels, tracker.beside.spread(before).reshape(output.shape), output, units.atoms)
    elif dims is None or not _parted(tracker, labels, dims, output):
        tracker.set_labels(output, tracker.rectangular(labels, None if dims is None else dims.heads))


def _joined(tracker: LabelTracker, labels: Tensor, spread: Tensor, output: Tensor, units: Tensor) -> None:
    """Label a view of a tensor with units beside its channels: both lie along one dimension where the view makes one of two."""
    wide = varying(labels)
    if len(wide) == 1 and varying(spread) == wide:
        first, second = vector(labels, wide[0]), vector(spread, wide[0])
        if first is not None and second is not None and bool((first != 0).all()):
            tracker.set_labels(output, along(tracker.trace.pairs.join(first, second), wide[0], output.shape))
            return
    tracker.set_labels(output, tracker.rectangular(labels))
    why = "a view reads places of channels, such as tokens, whose number is fixed"
    tracker.beside.place(tracker, output, spread, units, why)


def _parted(tracker: LabelTracker, labels: Tensor, dims: HeadDims, output: Tensor) -> bool:
    """Label a view that parts channels into heads and places within every head; return False for any other.

    Along other dimensions, such as that of q, k and v out of one layer, as many heads and places stay in all.
    """
    small = compact(labels)
    heads, places = dims.heads, dims.places
    if places is None or small.shape[heads] < 2 or small.shape[places] < 2:
        return False
    grids = small.movedim((heads, places), (-2, -1)).reshape(-1, small.shape[heads], small.shape[places])
    parted = tracker.trace.pairs.part(grids)
    if parted is None:
        return False
    tracker.set_labels(output, along(parted[0], heads, output.shape))
    tracker.beside.set(output, Beside(places - output.dim(), parted[1]))
    tracker.memory.label_beside(output, parted[1])
    return True
