"""Importance by the first-order effect of a removal on the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spaces.channels.groups import ChannelGroups
from spaces.importance.criterion import Criterion, CriterionOptions, by_unit, places_on, writers


class Taylor(Criterion):
    """First-order effect on the loss of setting a filter to zero, ``|sum w dL/dw|``, averaged over batches.

    The sum goes over everything that writes the coupled channel. Where a BatchNorm follows a filter, the filter's own sum
    is zero (the loss does not depend on its scale; derived), so that scaling factor and shift are summed in its place: the
    effect of setting the normalized channel to zero. After Molchanov et al., CVPR 2019, arXiv 1906.10771.
    """

    gradients = True

    def __init__(self, model: nn.Module, groups: ChannelGroups, options: CriterionOptions | None = None) -> None:
        super().__init__(model, groups, options)
        normalized = _normalized(groups)
        # By tensor: code of one module may do both, such as attention that multiplies by parameters of its own.
        passing = {
            (layer.name, tensor)
            for layer in groups.layers
            if not layer.kind.produces
            for tensor, _ in layer.kind.writers(layer.groups)
        }
        norms = set(normalized.values())
        self._tensors = [
            (model.get_submodule(name).get_parameter(tensor), dim, places_on(self.device, places))
            for name, tensor, dim, places in writers(groups)
            if (name in norms if (name, tensor) in passing else name not in normalized)
        ]
        self._sum = torch.zeros(groups.width, dtype=torch.float64, device=self.device)
        self._weight = torch.zeros((), dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def end(self) -> None:
        """Add the batch's effects, after its backward pass."""
        effects = torch.zeros(self.groups.width + 1, dtype=torch.float64, device=self.device)
        for parameter, dim, places in self._tensors:
            if parameter.grad is not None:
                products = (parameter * parameter.grad).movedim(dim, 0).reshape(len(places), -1).sum(1)
                units, scores = by_unit(self.groups, places, products.to(torch.float64))
                effects.index_add_(0, torch.where(units < 0, self.groups.width, units), scores)
        self._sum.mul_(self.options.smoothing).add_(effects[:-1].abs())
        self._weight.mul_(self.options.smoothing).add_(1.0)

    def values(self) -> Tensor:
        """Return the mean absolute effects, float64 of shape ``(groups.width,)``."""
        return self._sum / self._weight.clamp_min(1.0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weighted sum of effects and the sum of weights."""
        return {"sum": self._sum.clone(), "weight": self._weight.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the sums that :meth:`state_dict` returned."""
        self._sum.copy_(state["sum"])
        self._weight.copy_(state["weight"])


def _normalized(groups: ChannelGroups) -> dict[str, str]:
    """Return the layers whose very channels the next layer normalizes with a scaling factor, with that layer's name."""
    found = {}
    for layer, following in zip(groups.layers, groups.layers[1:], strict=False):
        same = layer.outputs.shape == following.outputs.shape and bool((layer.outputs == following.outputs).all())
        scaled = following.kind.absorbs_scale and f"{following.name}.{following.kind.scale}" in groups.ties
        if layer.kind.produces and scaled and same:
            found[layer.name] = following.name
    return found
