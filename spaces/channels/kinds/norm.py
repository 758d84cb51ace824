"""Normalizations of every channel by itself: BatchNorm and InstanceNorm."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channels.kinds.tracing import inside, normalized_atoms
from spaces.channels.labels.atoms import along
from spaces.channels.labels.tracker import LabelTracker
from spaces.layers.layer_kind import LayerKind
from spaces.layers.mask_hooks import MaskHook


class ChannelwiseNorm(LayerKind):
    """A normalization that takes the statistics of each channel alone."""

    name = "norm"
    modules = (nn.modules.batchnorm._NormBase,)
    functions = (F.batch_norm, F.instance_norm)
    produces = False
    absorbs_scale = True
    scale = "weight"
    statistics = ("running_mean",)

    def trace(
        self,
        tracker: LabelTracker,
        output: Tensor,
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Tie scaling factors, shifts and running statistics to the input's channels."""
        atoms = normalized_atoms(tracker, input, 1, self.modules)
        if atoms is None:
            return
        for tensor in (weight, bias, running_mean, running_var):
            tracker.tie(tensor, 0, atoms)
        tracker.set_labels(output, along(atoms, 1, output.shape))
        if inside(tracker, self.modules):
            tracker.record(self, atoms, atoms, 0.0, 1, 1 - input.dim())

    def sizes(self, inputs: int, outputs: int, groups: int, before: int) -> dict[str, int | tuple[int, ...]]:
        """Return ``num_features``."""
        return {"num_features": inputs}

    def mask_hook(self, channel_dim: int, groups: int) -> MaskHook | None:
        """Return None: a channel has no effect on the others."""
        return None
