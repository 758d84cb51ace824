"""Linear layers."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channels.kinds.own import own_layer
from spaces.channels.kinds.products import multiply_transposed
from spaces.channels.kinds.tracing import input_atoms, inside, label_output, leave_frozen, output_atoms, passes_by
from spaces.channels.labels.tracker import LabelTracker
from spaces.layers.layer_kind import LayerKind
from spaces.layers.linear_map import LinearMap, TokenMap
from spaces.layers.shapes import LayerShape


class Linear(LayerKind):
    """A linear layer; its channels are the last dimension."""

    name = "linear"
    modules = (nn.Linear,)
    functions = (F.linear,)
    compensable = True
    follows_beside = True
    quantized = {nn.Linear: "spaces.quantization.layers:QuantizedLinear"}

    def trace(self, tracker: LabelTracker, output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        """Tie weight and bias to the features read and written."""
        view = None if id(weight) in tracker.names else tracker.view_of(weight)
        if view is not None:
            multiply_transposed(tracker, view, input, bias, output)
            return
        if passes_by(tracker, self, input, weight, bias, output, input.dim() - 1):
            return
        atoms = input_atoms(tracker, input, weight, self.modules, input.dim() - 1)
        if atoms is None:
            leave_frozen(tracker, self, weight, output.shape[-1])
            return
        outputs = output_atoms(tracker, weight, 0, output.shape[-1])
        tracker.tie(weight, 1, atoms)
        tracker.tie(weight, 0, outputs)
        tracker.tie(bias, 0, outputs)
        label_output(tracker, output, outputs, output.dim() - 1, "output")
        lender = tracker.lender(weight, self.modules)
        whole = lender is not None or inside(tracker, self.modules)
        kind, dim = (self, -1) if whole else own_layer(tracker, weight, bias, atoms)
        tracker.record(kind, atoms, outputs, float(prod(output.shape[:-1])), 1, dim, lender)

    def sizes(self, inputs: int, outputs: int, groups: int, before: int) -> dict[str, int | tuple[int, ...]]:
        """Return ``in_features`` and ``out_features``."""
        return {"in_features": inputs, "out_features": outputs}

    def shape(self, module: nn.Module, inputs: Tensor) -> LayerShape:
        """Return features, with the other dimensions of ``inputs``."""
        assert isinstance(module, nn.Linear)  # noqa: S101 (for the type checker)
        return LayerShape("linear", module.in_features, module.out_features, tuple(inputs.shape[1:-1]))

    def linear_map(self, module: nn.Module) -> LinearMap:
        """Return the layer as its own matrix."""
        return TokenMap(module)
