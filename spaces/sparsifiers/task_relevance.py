"""Importance by task relevance: how far apart a channel's activation holds the classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spaces.graph.channel_groups import ChannelGroups, Layer
from spaces.sparsifiers.importance import Criterion, CriterionOptions, averaged, places_on

ROUNDING = 1e-10
"""Variance below this share of the mean square is rounding: a constant channel tells no class from another."""


class ClassStatistics:
    """Count, mean and sum of squared deviations of features per class, merged batch by batch.

    Merging is that of Chan, Golub, LeVeque (1979), in double precision. Memory of what came before may fade: counts and
    sums of squares are multiplied with ``memory`` at every batch.
    """

    def __init__(self, features: int, device: torch.device) -> None:
        self.count = torch.zeros(0, dtype=torch.float64, device=device)
        self.mean = torch.zeros(0, features, dtype=torch.float64, device=device)
        self.squares = torch.zeros(0, features, dtype=torch.float64, device=device)

    def add(self, features: Tensor, labels: Tensor, memory: float = 1.0) -> None:
        """Take in a batch: ``features`` of shape ``(N, features)``, ``labels`` of shape ``(N,)``."""
        classes = max(len(self.count), int(labels.max()) + 1)
        self._grow(classes)
        values = features.to(torch.float64)
        members = torch.nn.functional.one_hot(labels.long(), classes).to(torch.float64)
        count = members.sum(0)
        mean = (members.T @ values) / count.clamp_min(1.0)[:, None]
        squares = members.T @ (values - mean[labels.long()]).square_()
        self.count *= memory
        self.squares *= memory
        total = self.count + count
        share = torch.where(total > 0, count / total.clamp_min(torch.finfo(torch.float64).tiny), 0.0)[:, None]
        shift = mean - self.mean
        self.squares += squares + shift.square() * (self.count[:, None] * share)
        self.mean += shift * share
        self.count = total

    def _grow(self, classes: int) -> None:
        missing = classes - len(self.count)
        if missing > 0:
            pad = torch.nn.functional.pad
            self.count = pad(self.count, (0, missing))
            self.mean, self.squares = pad(self.mean, (0, 0, 0, missing)), pad(self.squares, (0, 0, 0, missing))

    def discriminant_ratio(self) -> Tensor:
        """Return Fisher's ratio, between-class variance / within-class variance, of shape ``(features,)``."""
        weights = (self.count / self.count.sum().clamp_min(torch.finfo(torch.float64).tiny))[:, None]
        mean = (weights * self.mean).sum(0)
        between = (weights * (self.mean - mean).square()).sum(0)
        within = self.squares.sum(0) / self.count.sum().clamp_min(torch.finfo(torch.float64).tiny)
        # A variance that rounding makes of a constant is no variance.
        floor = ROUNDING * (mean.square() + between + within) + torch.finfo(torch.float32).tiny
        return between / (within + floor)


class TaskRelevance(Criterion):
    """Fisher's discriminant ratio of the channel's activation, averaged over positions, between the classes.

    The activation is what the layers behind the channel read; where several read it, their ratios are averaged. "How far
    the filter has learned task-relevant features" is the method's (Gao, Wang, Jing, Yu, Scientia Sinica Informationis
    2022), this measure of it our reading. One pass over the data, without keeping an activation.
    """

    labels = True

    def __init__(self, model: nn.Module, groups: ChannelGroups, options: CriterionOptions | None = None) -> None:
        super().__init__(model, groups, options)
        self._readers: list[tuple[Layer, Tensor, Tensor]] = []
        seen: set[str] = set()
        for layer in groups.layers:
            if "norm" in layer.kind or layer.name in seen or (layer.inputs < 0).all():
                continue
            seen.add(layer.name)
            places, position = torch.unique(places_on(self.device, layer.inputs), return_inverse=True)
            self._readers.append((layer, places, position))
        self._places = torch.cat([places for _, places, _ in self._readers] or [torch.zeros(0, dtype=torch.int64)])
        self._statistics = ClassStatistics(len(self._places), self.device)
        self._pooled: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self._labels: Tensor | None = None

    def begin(self, labels: Tensor | None) -> None:
        self._labels = self.require(labels)
        self._pooled = {}
        for layer, places, position in self._readers:
            module = self.model.get_submodule(layer.name)
            hook = self._pool(layer, len(places), position, len(self._labels))
            self._handles.append(module.register_forward_pre_hook(hook))

    def _pool(self, layer: Layer, size: int, position: Tensor, samples: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def see(module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs = args[0].detach()
            rest = [dim for dim in range(1, inputs.dim()) if dim != inputs.dim() + layer.channel_dim]
            pooled = inputs.mean(rest) if rest else inputs
            if len(pooled) != samples and len(pooled) % samples == 0:
                pooled = pooled.unflatten(0, (samples, -1)).mean(1)
            if len(pooled) != samples:
                return
            if size < len(position):
                # A flattened map: several inputs are one channel.
                sums = pooled.new_zeros(samples, size).index_add_(1, position, pooled)
                pooled = sums / torch.bincount(position, minlength=size)
            else:
                pooled = pooled[:, position.argsort()]
            # A layer that runs twice counts by its last run.
            self._pooled[layer.name] = pooled

        return see

    @torch.no_grad()
    def end(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        labels, self._labels = self._labels, None
        if labels is None or not self._pooled:
            return
        blank = [labels.new_zeros(len(labels), len(places), dtype=torch.float64) for _, places, _ in self._readers]
        parts = [
            self._pooled.get(layer.name, nothing).to(torch.float64)
            for (layer, _, _), nothing in zip(self._readers, blank, strict=True)
        ]
        self._pooled = {}
        self._statistics.add(torch.cat(parts, 1), labels, self.options.smoothing)

    def values(self) -> Tensor:
        ratios = self._statistics.discriminant_ratio()
        return averaged(self.groups, [(self._places, ratios)], self.device).nan_to_num(0.0)

    def state_dict(self) -> dict[str, Tensor]:
        statistics = self._statistics
        return {name: getattr(statistics, name).clone() for name in ("count", "mean", "squares")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name in ("count", "mean", "squares"):
            setattr(self._statistics, name, state[name].to(self.device, torch.float64))
