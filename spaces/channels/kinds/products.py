"""Product rules: matrix products in which channels are contracted with a parameter of the running module, as in a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spaces.channels.kinds.own import channel_dim, own_product
from spaces.channels.kinds.tracing import label_output, output_atoms, outside, tie_nothing
from spaces.channels.labels.atoms import along, varying, vector
from spaces.channels.labels.stored_views import StoredView
from spaces.channels.labels.tracker import LabelTracker

PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
"""Place of the first factor among the arguments, by operator."""


def multiply(tracker: LabelTracker, name: str, args: tuple[Any, ...], output: Tensor) -> bool:
    """Label the product of activations and a parameter; return False where neither factor is one."""
    first = PRODUCTS[name]
    left, right = args[first : first + 2]
    added = args[0] if first else None
    for weight, inputs, read, written in ((right, left, -1, -1), (left, right, -2, -2)):
        view = tracker.view_of(weight)
        if view is not None and tracker.view_of(inputs) is None:
            # The contracted dimension is the last but one of a right factor, the last of a left one.
            dims = (weight.dim() - 1, weight.dim() - 2) if read == -1 else (weight.dim() - 2, weight.dim() - 1)
            _Product(tracker, name, view, dims, inputs, added, read, written, output).label()
            return True
    return False


def multiply_transposed(tracker: LabelTracker, view: StoredView, inputs: Tensor, bias: Tensor | None, output: Tensor) -> None:
    """Label the result of a linear function whose weight, of shape ``(out, in)``, is a view of a parameter."""
    _Product(tracker, "linear", view, (0, 1), inputs, bias, -1, -1, output).label()


class _Product:
    """A product of activations and a view of a parameter.

    Args:
        tracker: The tracker of the pass.
        name: Name of the operator.
        view: The view of the parameter.
        dims: Dimensions of the view along which the output and the input channels lie.
        inputs: The activations.
        added: What is added to the product.
        read: Dimension of ``inputs`` that is contracted.
        written: Dimension of ``output`` that the parameter writes.
        output: The result.
    """

    def __init__(
        self,
        tracker: LabelTracker,
        name: str,
        view: StoredView,
        dims: tuple[int, int],
        inputs: Tensor,
        added: Tensor | None,
        read: int,
        written: int,
        output: Tensor,
    ) -> None:
        self.tracker, self.name, self.view, self.inputs, self.added, self.output = tracker, name, view, inputs, added, output
        self.read, self.written = read % inputs.dim(), written % output.dim()
        self.part, self.columns = view.part_at(dims[0]), view.dim_at(dims[1])

    def label(self) -> None:
        """Tie the parameter to the channels, label the output and record the layer."""
        tracker, labels = self.tracker, self.tracker.labels(self.inputs)
        weight = self.view.parameter
        wide = varying(labels)
        if tracker.owner(weight) is None:
            tracker.freeze(labels, outside(tracker, weight))
        elif not wide or wide == [self.read]:
            atoms = vector(labels, self.read)
            if atoms is not None and self._contracted(atoms):
                return
            tracker.opaque(self.name, [self.inputs])
        elif len(wide) == 1:
            self._passed(wide[0])
            return
        if isinstance(self.added, Tensor):
            tracker.opaque(self.name, [self.added])

    def _contracted(self, atoms: Tensor) -> bool:
        """Follow the channels that the parameter reads; return False where they can't be masked."""
        tracker, weight = self.tracker, self.view.parameter
        if bool(atoms.any()) and (self.columns is None or not tracker.masking.zeroes(atoms)):
            return False
        count = self.output.shape[self.written]
        outputs = torch.zeros(count, dtype=torch.int64)
        rows, first = 0, 0
        if self.part is not None:
            rows, places = self.part
            whole = output_atoms(tracker, weight, rows, weight.shape[rows])
            tracker.tie(weight, rows, whole)
            outputs, first = whole[places], int(places[0])
        if self.columns is not None:
            tracker.tie(weight, self.columns, atoms)
        bias = self._add(outputs)
        label_output(tracker, self.output, outputs, self.written, "output")
        kind = own_product(tracker, weight, bias, rows, self.columns or 0, first)
        macs = self.output.numel() // count
        tracker.record(kind, atoms, outputs, float(macs), 1, channel_dim(tracker, atoms))
        return True

    def _add(self, outputs: Tensor) -> Tensor | None:
        """Unite the output channels with those of what is added; return the parameter that is."""
        tracker, added = self.tracker, self.added
        if added is None:
            return None
        if id(added) in tracker.names and added.dim() == 1:
            tracker.tie(added, 0, outputs)
            return added
        dim = added.dim() - (self.output.dim() - self.written)
        line = vector(tracker.label_of(added), dim) if dim >= 0 else None
        if line is None or len(line) != len(outputs) or added.stride(dim) == 0:
            tracker.opaque(self.name, [added])
            if line is None and bool(tracker.labels(added).any()):
                tracker.freeze(outputs, f"{self.name} adds channels that lie otherwise")
            return None
        tracker.unite(line, outputs, f"{self.name} with values of no channel and a fixed size")
        return None

    def _passed(self, dim: int) -> None:
        """Follow channels that pass by: the parameter mixes other places, such as tokens, of each channel alike."""
        tracker, weight = self.tracker, self.view.parameter
        atoms = vector(tracker.labels(self.inputs), dim)
        if atoms is None or (isinstance(self.added, Tensor) and bool(tracker.labels(self.added).any())):
            tracker.opaque(self.name, [one for one in (self.inputs, self.added) if one is not None])
            return
        tie_nothing(tracker, weight)
        tracker.set_labels(self.output, along(atoms, dim, self.output.shape))
        macs = self.output.numel() * self.inputs.shape[self.read] / len(atoms)
        none = torch.zeros(1, dtype=torch.int64)
        tracker.pass_by(own_product(tracker, weight, None, 0, 1), none, none, macs, 0, atoms)
