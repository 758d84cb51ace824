"""GroupNorm."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from spaces.channels.kinds.tracing import couple_groups, inside, normalized_atoms
from spaces.channels.labels.atoms import along
from spaces.channels.labels.tracker import LabelTracker
from spaces.layers.layer_kind import LayerKind
from spaces.layers.mask_hooks import KeptStatistics, MaskHook


class GroupNorm(LayerKind):
    """A normalization over groups of channels: of several groups each leaves whole, in a single one channels leave alone."""

    name = "group_norm"
    modules = (nn.GroupNorm,)
    functions = (F.group_norm,)
    produces = False
    scale = "weight"

    def trace(
        self,
        tracker: LabelTracker,
        output: Tensor,
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Tie scaling factors and shifts to the input's channels, and unite those of a group."""
        atoms = normalized_atoms(tracker, input, 1, self.modules, num_groups == 1)
        if atoms is None:
            return
        tracker.tie(weight, 0, atoms)
        tracker.tie(bias, 0, atoms)
        if num_groups > 1:
            couple_groups(tracker, atoms, atoms, num_groups)
        tracker.set_labels(output, along(atoms, 1, output.shape))
        if inside(tracker, self.modules):
            tracker.record(self, atoms, atoms, 0.0, num_groups, 1 - input.dim())

    def sizes(self, inputs: int, outputs: int, groups: int, before: int) -> dict[str, int | tuple[int, ...]]:
        """Return ``num_channels`` and ``num_groups``."""
        return {"num_channels": inputs, "num_groups": groups if groups == 1 else groups * inputs // before}

    def mask_hook(self, channel_dim: int, groups: int) -> MaskHook | None:
        """Return the hook that takes the statistics over the kept channels; None where whole groups leave."""
        return KeptStatistics(channel_dim, self.normalize) if groups == 1 else None

    def normalize(
        self, module: nn.Module, kept: Tensor, weight: Tensor | None, bias: Tensor | None, channel_dim: int
    ) -> Tensor:
        """Normalize the kept channels in one group."""
        assert isinstance(module, nn.GroupNorm)  # noqa: S101 (for the type checker)
        return F.group_norm(kept, 1, weight, bias, module.eps)

    def shares_statistics(self, groups: int) -> bool:
        """Return True for a single group, whose statistics are over all channels."""
        return groups == 1
