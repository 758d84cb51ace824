"""Reduction rules: how labels pass through sums, means, norms and other statistics, and through softmax.

A statistic over channels is a value of no channel that depends on the number of channels: the masked network takes it over the
kept ones (see :mod:`spaces.channels.labels.masked_calls`), as the sliced network does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spaces.channels.labels.atoms import varying
from spaces.channels.labels.tracker import LabelTracker

REDUCTIONS = frozenset(
    "mean sum amax amin max min var std var_mean std_mean norm linalg_vector_norm prod logsumexp nansum".split()
)
ALONG_DIM = frozenset("softmax _softmax log_softmax _log_softmax cumsum".split())
"""Operators that keep the shape, and whose second argument is the dimension along which elements have an effect on others."""


def reduce(tracker: LabelTracker, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Label the result of a reduction."""
    results = [output] if isinstance(output, Tensor) else list(output)
    labels = tracker.labels(args[0])
    position = 2 if name in ("norm", "linalg_vector_norm") else 1
    dims = kwargs.get("dim", args[position] if len(args) > position else None)
    listed = range(labels.dim()) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    reduced = {dim % labels.dim() for dim in listed} if labels.dim() else set()
    if reduced & set(varying(labels)):
        if not tracker.masking.gathers():
            tracker.freeze(labels, f"{name} over the channels")
            return
        labels = torch.zeros((), dtype=torch.int64).expand(labels.shape)
    for dim in sorted(reduced, reverse=True):
        labels = labels.narrow(dim, 0, 1) if results[0].dim() == args[0].dim() else labels.select(dim, 0)
    for result in results:
        tracker.set_labels(result, labels)


def run_along(tracker: LabelTracker, name: str, args: tuple[Any, ...], output: Tensor) -> None:
    """Label the result of an operator of :data:`ALONG_DIM`."""
    labels = tracker.labels(args[0])
    if labels.dim() and args[1] % labels.dim() in varying(labels) and not tracker.masking.gathers():
        tracker.freeze(labels, f"{name} over the channels")
        return
    tracker.set_labels(output, labels)
