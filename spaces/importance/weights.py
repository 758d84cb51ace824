"""Importance from the weights alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor

from spaces.importance.criterion import Criterion, averaged, places_on
from spaces.layers.layer_kind import LayerKind


class FilterScore(Criterion):
    """A score of each filter, averaged over the layers that produce the coupled channel."""

    @abstractmethod
    def rows(self, filters: Tensor) -> Tensor:
        """Return the scores of ``filters``, of shape ``(filters, weights)``, as shape ``(filters,)``."""

    @torch.no_grad()
    def values(self) -> Tensor:
        """Return the mean score of the filters of each coupled channel, float64 of shape ``(groups.width,)``."""
        return averaged(self.groups, self._parts(), self.device)

    def _parts(self) -> Iterable[tuple[Tensor, Tensor]]:
        seen: set[tuple[str, LayerKind]] = set()
        for layer in self.groups.layers:
            if not layer.kind.produces or (layer.name, layer.kind) in seen or (layer.outputs < 0).all():
                continue
            seen.add((layer.name, layer.kind))
            filters = layer.kind.filters(self.model.get_submodule(layer.name), len(layer.outputs), layer.groups)
            yield places_on(self.device, layer.outputs), self.rows(filters)


class L1Norm(FilterScore):
    """Sum of absolute weights (Li et al., ICLR 2017, arXiv 1608.08710)."""

    def rows(self, filters: Tensor) -> Tensor:
        """Return the sum of absolute weights of every filter, of shape ``(filters,)``."""
        return filters.abs().sum(1)


class L2Norm(FilterScore):
    """Euclidean norm of the weights."""

    def rows(self, filters: Tensor) -> Tensor:
        """Return the Euclidean norm of every filter, of shape ``(filters,)``."""
        norms: Tensor = torch.linalg.vector_norm(filters, dim=1)
        return norms


class GeometricMedian(FilterScore):
    """Sum of distances to the layer's other filters: the others replace the ones near their geometric median.

    He, Liu, Wang, Hu, Yang, CVPR 2019, arXiv 1811.00250.
    """

    def rows(self, filters: Tensor) -> Tensor:
        """Return the sum of distances from every filter to the others, of shape ``(filters,)``."""
        return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


class BatchNormScale(L2Norm):
    """Mean absolute scaling factor of the normalizations; where a group has none, the L2 norm of its filters.

    Network slimming, Liu et al., ICCV 2017, arXiv 1708.06519.
    """

    @torch.no_grad()
    def values(self) -> Tensor:
        """Return mean absolute scaling factors, or filter norms in groups without any, float64 of shape ``(groups.width,)``."""
        total = super().values()
        scales = averaged(self.groups, self._scales(), self.device)
        for group in self.groups.groups:
            block = slice(group.offset, group.offset + group.size)
            if bool(torch.isfinite(scales[block]).all()):
                total[block] = scales[block]
        return total

    def _scales(self) -> Iterable[tuple[Tensor, Tensor]]:
        for layer in self.groups.layers:
            if layer.kind.scale:
                factors = getattr(self.model.get_submodule(layer.name), layer.kind.scale, None)
                if isinstance(factors, Tensor):
                    yield places_on(self.device, layer.outputs), factors.abs()
