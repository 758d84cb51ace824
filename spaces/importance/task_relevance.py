"""Importance by task relevance: separation of the classes by a channel's activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spaces.channels.groups import ChannelGroups, Layer
from spaces.execution.hooks import first_tensor
from spaces.importance.criterion import Criterion, CriterionOptions, averaged, group_means, places_on, relative
from spaces.importance.weights import L2Norm

ROUNDING = 1e-10
"""Variance below this share of the mean square is rounding: a constant channel tells no class from another."""


class ClassStatistics:
    """Count and mean of features per class, and their squared deviations within the classes, merged batch by batch.

    Merging is that of Chan, Golub, LeVeque (1979), in double precision; a batch touches the classes that are in it, however
    many there are. Memory of what came before may fade: counts and squares are multiplied with ``memory`` at every batch.

    Attributes:
        count: Samples of every class, of shape ``(classes,)``.
        mean: Mean of every class, of shape ``(classes, features)``.
        squares: Squared deviations from the mean of the own class, summed over all samples, of shape ``(features,)``.
    """

    def __init__(self, features: int, device: torch.device) -> None:
        self.count = torch.zeros(0, dtype=torch.float64, device=device)
        self.mean = torch.zeros(0, features, dtype=torch.float64, device=device)
        self.squares = torch.zeros(features, dtype=torch.float64, device=device)

    def add(self, features: Tensor, labels: Tensor, memory: float = 1.0) -> None:
        """Take in a batch: ``features`` of shape ``(N, features)``, ``labels`` of shape ``(N,)``."""
        values = features.to(torch.float64)
        present, member = torch.unique(labels, return_inverse=True)
        self._grow(int(present[-1]) + 1)
        count = torch.bincount(member, minlength=len(present)).to(torch.float64)
        mean = values.new_zeros(len(present), values.shape[1]).index_add_(0, member, values).div_(count[:, None])
        self.count *= memory
        self.squares *= memory
        before = self.count[present]
        total = before + count
        shift = mean.sub(self.mean[present])
        self.squares += (values - mean[member]).square_().sum(0)
        self.squares += (before * count / total) @ shift.square()
        self.mean.index_add_(0, present, shift.mul_((count / total)[:, None]))
        self.count.index_copy_(0, present, total)

    def _grow(self, classes: int) -> None:
        missing = classes - len(self.count)
        if missing > 0:
            pad = torch.nn.functional.pad
            self.count, self.mean = pad(self.count, (0, missing)), pad(self.mean, (0, 0, 0, missing))

    def discriminant_ratio(self) -> Tensor:
        """Return Fisher's ratio, between-class variance / within-class variance, of shape ``(features,)``."""
        samples = self.count.sum().clamp_min(torch.finfo(torch.float64).tiny)
        weights = self.count / samples
        mean = weights @ self.mean
        between = weights @ (self.mean - mean).square_()
        within = self.squares / samples
        # A variance that rounding makes of a constant is no variance.
        floor = ROUNDING * (mean.square() + between + within) + torch.finfo(torch.float32).tiny
        return between / (within + floor)


@dataclass(frozen=True)
class _Pass:
    """A forward pass, of a batch or of a part of it.

    Attributes:
        samples: Number of its samples.
        pooled: Pooled inputs of shape ``(samples, places)``, by the name of the layer that read them.
    """

    samples: int
    pooled: dict[str, Tensor] = field(default_factory=dict)


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
            if not layer.kind.produces or layer.name in seen or (layer.inputs < 0).all() or not layer.channel_dim:
                continue
            if not layer.kind.reads_argument:
                continue
            seen.add(layer.name)
            places, position = torch.unique(places_on(self.device, layer.inputs), return_inverse=True)
            self._readers.append((layer, places, position))
        self._places = torch.cat([places for _, places, _ in self._readers] or [torch.zeros(0, dtype=torch.int64)])
        self._statistics = ClassStatistics(len(self._places), self.device)
        self._passes: list[_Pass] = []
        self._parted = False
        self._handles: list[RemovableHandle] = []
        self._labels: Tensor | None = None

    def begin(self, labels: Tensor | None) -> None:
        """Watch the activations of a forward pass on a batch with class labels of shape ``(N,)``."""
        self._labels = self.require(labels)
        self._passes, self._parted = [_Pass(len(self._labels))], False
        for layer, places, position in self._readers:
            module = self.model.get_submodule(layer.name)
            hook = self._pool(layer, len(places), position)
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def part(self, rows: int) -> None:
        """Watch the forward pass of the next ``rows`` samples of the batch."""
        self._passes = [*(self._passes if self._parted else []), _Pass(rows)]
        self._parted = True

    def _pool(self, layer: Layer, size: int, position: Tensor) -> Callable[..., None]:
        order = None if bool((position[1:] > position[:-1]).all()) else position.argsort()

        def see(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            entering = first_tensor(args, keywords)
            if entering is None:
                return
            inputs, samples = entering.detach(), self._passes[-1].samples
            rest = [dim for dim in range(1, inputs.dim()) if dim != inputs.dim() + layer.channel_dim]
            pooled = inputs.mean(rest) if rest else inputs
            if len(pooled) != samples and len(pooled) % samples == 0:
                pooled = pooled.reshape(samples, -1, *pooled.shape[1:]).mean(1)
            if len(pooled) != samples:
                return
            if size < len(position):
                # A flattened map: several inputs are one channel.
                sums = pooled.new_zeros(samples, size).index_add_(1, position, pooled)
                pooled = sums / torch.bincount(position, minlength=size)
            elif order is not None:
                pooled = pooled[:, order]
            # A layer that runs twice counts by its last run.
            self._passes[-1].pooled[layer.name] = pooled

        return see

    @torch.no_grad()
    def end(self) -> None:
        """Add the batch's activations to the class statistics, and stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        labels, self._labels = self._labels, None
        passes, self._passes = self._passes, []
        if labels is None or not any(one.pooled for one in passes):
            return
        features = torch.cat([self._features(one, labels) for one in passes])
        self._statistics.add(self.gather(features), labels, self.options.smoothing)

    def _features(self, one: _Pass, labels: Tensor) -> Tensor:
        """Return the pooled inputs of all readers in a pass, float64 of shape ``(samples, places)``, 0 where none ran."""
        parts = [
            one.pooled[layer.name].to(torch.float64)
            if layer.name in one.pooled
            else labels.new_zeros(one.samples, len(places), dtype=torch.float64)
            for layer, places, _ in self._readers
        ]
        return torch.cat(parts, 1)

    def values(self) -> Tensor:
        """Return Fisher's ratios, float64 of shape ``(groups.width,)``; 0 for channels that no layer reads.

        A group of which no layer reads anything, such as the width of queries and keys, which meet in a product, has the L2
        norms of its filters, scaled to the mean ratio of the others (ours).
        """
        ratios = averaged(self.groups, [(self._places, self._statistics.discriminant_ratio())], self.device)
        unread = group_means(self.groups, ratios.isfinite().to(ratios.dtype)) == 0.0
        if bool(unread.any()) and not bool(unread.all()):
            norms = relative(self.groups, L2Norm(self.model, self.groups, self.options).values())
            ratios = torch.where(unread, norms * ratios[ratios.isfinite()].mean(), ratios)
        return ratios.nan_to_num(0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the class statistics."""
        statistics = self._statistics
        return {name: getattr(statistics, name).clone() for name in ("count", "mean", "squares")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the class statistics that :meth:`state_dict` returned."""
        for name in ("count", "mean", "squares"):
            setattr(self._statistics, name, state[name].to(self.device, torch.float64))
