"""Output channels of the dense network's layers that a smaller network still has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spaces.channels.surgery import Cut
from spaces.layers.layer_kind import kind_of
from spaces.reconstruction.structure import linear_maps


def kept_outputs(dense: nn.Module, cuts: Sequence[Cut]) -> dict[str, Tensor]:
    """Return the output channels that stay, int64 and ascending, by the names of the linear layers that lost some.

    Args:
        dense: The network before the cuts.
        cuts: Cuts, one after the other.
    """
    found: dict[str, Tensor] = {}
    for name, layer in linear_maps(dense).items():
        kind = kind_of(layer.module)
        dim = kind.output_dim if kind is not None and layer.groups == 1 else 0
        rows = torch.arange(layer.weight.shape[dim])
        for cut in cuts:
            stay = cut.kept.get(f"{name}.weight".lstrip("."), {}).get(dim)
            rows = rows if stay is None else rows[torch.as_tensor(stay)]
        if len(rows) < layer.weight.shape[dim]:
            found[name] = layer.kept_outputs(rows)
    return found
