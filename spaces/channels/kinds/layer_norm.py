"""Normalizations over the last dimension: LayerNorm and RMSNorm."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channels.kinds.own import own_norm
from spaces.channels.kinds.tracing import inside, normalized_atoms, tie_nothing
from spaces.channels.labels.atoms import along, varying
from spaces.channels.labels.tracker import LabelTracker
from spaces.layers.layer_kind import LayerKind
from spaces.layers.mask_hooks import KeptStatistics, MaskHook


class LayerNorm(LayerKind):
    """A normalization that takes its statistics over the channels, which are the last dimension.

    Its shifts do not count as writers of a channel: what comes out for a zero channel depends on the others.
    """

    name = "layer_norm"
    modules = (nn.LayerNorm, nn.RMSNorm)
    functions = (F.layer_norm, F.rms_norm)
    produces = False
    scale = "weight"

    def trace(
        self,
        tracker: LabelTracker,
        output: Tensor,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Tie scaling factors and shifts to the input's channels."""
        if len(normalized_shape) != 1:
            tracker.freeze(tracker.labels(input), "normalizes over more than the channels")
            return
        labels = tracker.labels(input)
        if (wide := varying(labels)) and input.dim() - 1 not in wide:
            # Each channel is normalized by itself, such as an attention head over its width.
            for stored in (weight, bias):
                tie_nothing(tracker, stored)
            tracker.set_labels(output, labels)
            return
        atoms = normalized_atoms(tracker, input, input.dim() - 1, self.modules, shared=True)
        if atoms is None:
            return
        tracker.tie(weight, 0, atoms)
        tracker.tie(bias, 0, atoms)
        tracker.set_labels(output, along(atoms, output.dim() - 1, output.shape))
        if inside(tracker, self.modules):
            tracker.record(self, atoms, atoms, 0.0, 1, _module_channel_dim(tracker))
        elif (own := own_norm(tracker, len(atoms))) is not None:
            tracker.record(own, atoms, atoms, 0.0, 1, 0)

    def sizes(self, inputs: int, outputs: int, groups: int, before: int) -> dict[str, int | tuple[int, ...]]:
        """Return ``normalized_shape``."""
        return {"normalized_shape": (inputs,)}

    def mask_hook(self, channel_dim: int, groups: int) -> MaskHook:
        """Return the hook that takes the statistics over the kept channels."""
        return KeptStatistics(channel_dim, self.normalize)

    def normalize(
        self, module: nn.Module, kept: Tensor, weight: Tensor | None, bias: Tensor | None, channel_dim: int
    ) -> Tensor:
        """Normalize the kept channels, of whose count ``weight`` and ``bias`` are."""
        last, epsilon = kept.movedim(channel_dim, -1), module.eps
        shape = (last.shape[-1],)
        if isinstance(module, nn.RMSNorm):
            small = F.rms_norm(last, shape, weight, module.eps)
        else:
            small = F.layer_norm(last, shape, weight, bias, epsilon)  # type: ignore[arg-type]
        return small.movedim(-1, channel_dim)

    def writers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return no tensor."""
        return ()

    def shares_statistics(self, groups: int) -> bool:
        """Return True."""
        return True


def _module_channel_dim(tracker: LabelTracker) -> int:
    """Return the channel dimension of the running module's input, from the end: others than the last are moved there."""
    entered = tracker.stack[-1][2]
    wide = varying(tracker.labels(entered)) if entered is not None else []
    return wide[0] - entered.dim() if entered is not None and len(wide) == 1 else -1
