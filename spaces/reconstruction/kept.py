"""Output channels of the dense network's layers that a smaller network still has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spaces.channels.groups import trace_groups
from spaces.channels.labels.atoms import compact
from spaces.channels.subset import kept_channels
from spaces.channels.surgery import Cut
from spaces.cloning.admission import admitted
from spaces.execution.batch import Nested, plain_tensors
from spaces.execution.comparison import eager
from spaces.execution.forward import Forward
from spaces.execution.randomness import kept_randomness
from spaces.layers.layer_kind import kind_of
from spaces.layers.split_attention import split_attention
from spaces.reconstruction.structure import linear_maps


@dataclass(frozen=True)
class KeptOutput:
    """Indices of a dense output that a smaller network's output still has.

    Attributes:
        dim: Dimension of the output that holds channels, from 0.
        rows: Indices along it, int64 and ascending.
        factors: What the smaller network multiplies each of them by, of shape ``(rows,)``; None for nothing.
    """

    dim: int
    rows: Tensor
    factors: Tensor | None = None

    def of(self, output: Tensor) -> Tensor:
        """Return the part of a dense output that the smaller network has."""
        part = output.index_select(self.dim, self.rows.to(output.device))
        if self.factors is None:
            return part
        shape = [1] * part.dim()
        shape[self.dim] = len(self.rows)
        return part * self.factors.to(part).reshape(shape)


def kept_outputs(dense: nn.Module, cuts: Sequence[Cut]) -> dict[str, KeptOutput]:
    """Return the output channels that stay, by the names of the linear layers that lost some.

    Args:
        dense: The network before the cuts.
        cuts: Cuts, one after the other.
    """
    found: dict[str, KeptOutput] = {}
    for name, layer in linear_maps(dense).items():
        kind = kind_of(layer.module)
        dim = kind.output_dim if kind is not None and layer.groups == 1 else 0
        rows = torch.arange(layer.weight.shape[dim])
        factors, weight = torch.ones(len(rows)), f"{name}.weight".lstrip(".")
        for cut in cuts:
            stay = cut.kept.get(weight, {}).get(dim)
            if stay is not None:
                rows, factors = rows[torch.as_tensor(stay)], factors[torch.as_tensor(stay)]
            for scaled, factor in cut.scaled.get(weight, {}).get(dim, ()):
                factors[torch.as_tensor(scaled)] *= factor
        if len(rows) < layer.weight.shape[dim]:
            outputs = layer.kept_outputs(rows)
            found[name] = KeptOutput(1, outputs, factors if bool((factors != 1.0).any()) else None)
    return found


def kept_of_parts(
    dense: nn.Module, cuts: Sequence[Cut], sample: Nested, forward: Forward, names: Collection[str]
) -> dict[str, KeptOutput | None]:
    """Return the indices that stay of the one floating-point tensor that each of some parts of a network returns.

    Args:
        dense: The network before the cuts; left unchanged.
        cuts: Cuts, one after the other.
        sample: A batch of a single sample.
        forward: Runs the network on it.
        names: Names of the parts.

    Returns:
        By name, None where all stay. Left out are parts that don't run once, and outputs of which no whole slices stay.
    """
    with kept_randomness(), eager():
        traced = trace_groups(split_attention(admitted(dense)), plain_tensors(sample), (), (), forward)
    stay = traced.groups.extended(kept_channels(traced.groups, cuts))
    found: dict[str, KeptOutput | None] = {}
    for name in names:
        calls = traced.trace.outputs.get(name, [])
        returned = [one for call in calls for one in call if one.dtype.is_floating_point]
        if len(calls) != 1 or len(returned) != 1:
            continue
        labels = returned[0].labels
        kept = torch.ones(1, dtype=torch.bool)
        if labels is not None:
            kept = torch.from_numpy(stay[traced.places[compact(labels).numpy()]])
        if kept.all():
            found[name] = None
        elif max(kept.shape) == kept.numel():
            dim = max(range(kept.dim()), key=lambda one: kept.shape[one])
            found[name] = KeptOutput(dim, kept.reshape(-1).nonzero()[:, 0])
    return found
