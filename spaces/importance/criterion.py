"""Importance: one score per coupled channel, the larger the more it matters; every criterion behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spaces.channels.groups import ChannelGroups
from spaces.cloning.clone import clone
from spaces.errors import MissingLabelsError, SecateursError
from spaces.execution.batch import Nested
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, call
from spaces.layers.layer_kind import LayerKind
from spaces.layers.split_attention import split_form
from spaces.registry import resolve, suggestion

CriterionName = Literal[
    "bn_scale", "l1", "l2", "geometric_median", "taylor", "task_relevance", "relevance_loss", "second_order"
]

Gather = Callable[[Tensor], Tensor]
"""Puts the rows that the processes of a training have of a batch together, in order: the same tensor in all of them."""

CRITERIA = {
    "bn_scale": "spaces.importance.weights:BatchNormScale",
    "l1": "spaces.importance.weights:L1Norm",
    "l2": "spaces.importance.weights:L2Norm",
    "geometric_median": "spaces.importance.weights:GeometricMedian",
    "taylor": "spaces.importance.loss_effect:Taylor",
    "task_relevance": "spaces.importance.task_relevance:TaskRelevance",
    "relevance_loss": "spaces.importance.relevance_loss:RelevanceLoss",
    "second_order": "spaces.importance.second_order:SecondOrder",
}


@dataclass(frozen=True)
class CriterionOptions:
    """Options that criteria share.

    Attributes:
        smoothing: Share that what was seen so far keeps at every new batch: 1 weighs all batches alike, 0.99 the last hundred.
        exponent: Weight of task relevance against the effect on the loss in ``relevance_loss``; 0 leaves only the latter.
    """

    smoothing: float = 1.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing <= 1.0:
            raise ValueError(f"smoothing: expected a number from 0 to 1, got {self.smoothing}")
        if not self.exponent >= 0.0:
            raise ValueError(f"exponent: expected a number of at least 0, got {self.exponent}")


class Criterion(ABC):
    """Scores the coupled channels of one network from its weights, or from batches shown to the criterion.

    A criterion that learns from batches is told of each before its forward pass (:meth:`begin`) and after its backward
    pass (:meth:`end`); between the two it may have hooks on the network, and at no other time. A batch that is computed in
    parts is told of by :meth:`part` before each, and gradients are those of the whole batch at its end.

    Class attributes:
        labels: True if class labels are needed.
        gradients: True if the gradients of the objective are needed.
        few_samples: True if as many samples suffice as the levels of the space are learnt from.

    Args:
        model: The network, which is read whenever scores are asked for.
        groups: Its channel groups.
        options: Smoothing and the like.
    """

    labels: ClassVar[bool] = False
    gradients: ClassVar[bool] = False
    few_samples: ClassVar[bool] = False

    def __init__(self, model: nn.Module, groups: ChannelGroups, options: CriterionOptions | None = None) -> None:
        self.model = model
        self.groups = groups
        self.options = options or CriterionOptions()
        self.device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.gather: Gather = lambda rows: rows

    @property
    def learns(self) -> bool:
        """True if the criterion learns from batches, so that it must be shown some."""
        return self.labels or self.gradients

    def begin(self, labels: Tensor | None) -> None:
        """Get ready for the forward pass of a batch with class labels of shape ``(N,)``.

        Raises:
            MissingLabelsError: Labels are needed and are None.
        """

    def join(self, gather: Gather) -> None:
        """Receive the gathering of rows over the processes of a training, each of which computes a part of every batch."""
        self.gather = gather

    def part(self, rows: int) -> None:
        """Get ready for the forward pass of so many samples, the next ones of the batch."""

    def end(self) -> None:
        """Accumulate the batch, after its backward pass and before gradients are changed."""

    @abstractmethod
    def values(self) -> Tensor:
        """Return the scores of all coupled channels, float64 of shape ``(groups.width,)``, none below 0."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state learnt from batches, by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state_dict`."""

    def require(self, labels: Tensor | None) -> Tensor:
        """Return ``labels``; raise :class:`~spaces.errors.MissingLabelsError` if they are None."""
        if labels is None:
            raise missing_labels(type(self))
        return labels


@dataclass(frozen=True)
class Observations:
    """Batches, loss and labels for the criteria that learn from batches.

    Attributes:
        batches: ``(inputs, targets)`` on the network's device.
        loss: From the network's outputs and the targets to the mean loss.
        labels: From the targets to class labels of shape ``(N,)``, or None.
        forward: How the network is run on a batch.
    """

    batches: Iterable[tuple[Nested, Nested]]
    loss: Callable[[Any, Nested], Tensor]
    labels: Callable[[Nested], Tensor | None]
    forward: Forward = call


def missing_labels(criterion: type[Criterion]) -> MissingLabelsError:
    """Return the error that says why a criterion needs labels."""
    return MissingLabelsError(
        f"importance by {criterion.__name__} compares classes: expected class labels, and the task has none; take taylor, l2 "
        "or another criterion without labels, or let the task's `labels` return them"
    )


def make_criterion(name: str, model: nn.Module, groups: ChannelGroups, options: CriterionOptions | None = None) -> Criterion:
    """Return the criterion registered under ``name``, over ``model``.

    Raises:
        SecateursError: There is none; the message names the nearest.
    """
    criterion: Criterion = find_criterion(name)(model, groups, options)
    return criterion


def find_criterion(name: str) -> type[Criterion]:
    """Return the class of the criterion registered under ``name``.

    Raises:
        SecateursError: There is none; the message names the nearest.
    """
    if name not in CRITERIA:
        raise SecateursError(f"unknown importance criterion {name!r}; {suggestion(name, CRITERIA)}")
    found: type[Criterion] = resolve(CRITERIA[name])
    return found


def score(
    model: nn.Module,
    groups: ChannelGroups,
    criterion: str = "bn_scale",
    seen: Observations | None = None,
    options: CriterionOptions | None = None,
) -> dict[str, np.ndarray]:
    """Score every coupled channel of every open group, in one pass over the batches where the criterion needs them.

    Args:
        model: The network that ``groups`` were found in; left unchanged, and run in evaluation mode.
        groups: Its channel groups.
        criterion: A name in :data:`CRITERIA`.
        seen: Batches, for the criteria that learn from them.
        options: The criterion's options.

    Returns:
        By group name, float64 scores of shape ``(group.size,)``.

    Raises:
        SecateursError: The criterion is unknown, or needs batches and gets none.
        MissingLabelsError: It needs class labels and the task has none.
    """
    probe = make_criterion(criterion, model, groups, options)
    if probe.learns:
        # PyTorch's own attention calls none of its projections, whose outputs are what a criterion sees.
        seeing = _differentiable(model) if probe.gradients else model
        probe = make_criterion(criterion, split_form(seeing), groups, options)
        observe(probe, seen)
    return by_group(groups, probe.values())


def observe(criterion: Criterion, seen: Observations | None) -> None:
    """Show all batches to a criterion, its network in evaluation mode.

    Raises:
        SecateursError: There is no batch.
    """
    model, number = criterion.model, 0
    with evaluation_mode(model):
        for inputs, targets in seen.batches if seen is not None else ():
            assert seen is not None  # noqa: S101 (for the type checker)
            criterion.begin(seen.labels(targets))
            with torch.set_grad_enabled(criterion.gradients):
                outputs = seen.forward(model, inputs)
                if criterion.gradients:
                    model.zero_grad(set_to_none=True)
                    seen.loss(outputs, targets).backward()  # type: ignore[no-untyped-call]
            criterion.end()
            number += 1
    if not number:
        raise SecateursError(f"importance by {type(criterion).__name__} learns from batches: expected some, got none")


def by_group(groups: ChannelGroups, values: Tensor) -> dict[str, np.ndarray]:
    """Split scores of shape ``(groups.width,)`` by group name."""
    whole = values.detach().to("cpu", torch.float64).numpy()
    return {group.name: whole[group.offset : group.offset + group.size].copy() for group in groups.groups}


def group_means(groups: ChannelGroups, values: Tensor) -> Tensor:
    """Return, for every coupled channel, the mean of ``values`` over its group, of shape ``(groups.width,)``."""
    means = torch.empty_like(values)
    for group in groups.groups:
        block = slice(group.offset, group.offset + group.size)
        means[block] = values[block].mean()
    return means


def relative(groups: ChannelGroups, values: Tensor) -> Tensor:
    """Return ``values`` over the mean of their group; 0 in a group that is 0 throughout."""
    means = group_means(groups, values)
    return torch.where(means > 0, values / means.clamp_min(torch.finfo(values.dtype).tiny), torch.zeros_like(values))


def averaged(groups: ChannelGroups, parts: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> Tensor:
    """Average scores over the places of each coupled channel; NaN where nothing scores it.

    Args:
        groups: The channel groups.
        parts: Mask positions (-1: not open) and scores, each of shape ``(n,)``.
        device: Where the scores are.
    """
    # What is not open goes into a last position, which is dropped. All at once: importance may be asked for at every step.
    found = list(parts)
    places = torch.cat([places for places, _ in found] or [torch.zeros(0, dtype=torch.int64, device=device)])
    scores = torch.cat(
        [scores.to(torch.float64) for _, scores in found] or [torch.zeros(0, dtype=torch.float64, device=device)]
    )
    places, scores = by_unit(groups, places, scores)
    position = torch.where(places < 0, groups.width, places)
    sums = torch.zeros(groups.width + 1, dtype=torch.float64, device=device).index_add_(0, position, scores)
    counts = torch.zeros_like(sums).index_add_(0, position, torch.ones_like(scores))
    return (sums / counts)[: groups.width]


def by_unit(groups: ChannelGroups, places: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return mask positions and scores, those of a pair of units as ones of each of both."""
    if not len(groups.pairs):
        return places, scores
    units = torch.from_numpy(groups.units_of(places.cpu().numpy())).to(places.device)
    return units.T.reshape(-1), scores.repeat(2)


def places_on(device: torch.device, places: np.ndarray) -> Tensor:
    """Return mask positions as a tensor."""
    return torch.from_numpy(np.ascontiguousarray(places)).to(device)


def _differentiable(model: nn.Module) -> nn.Module:
    copied = clone(model)
    for parameter in copied.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return copied


def writers(groups: ChannelGroups) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """Yield the tensors that write channels: module name, tensor name, dimension, mask positions along it.

    They are filters and biases of the producing layers, and scaling factors and shifts of normalizations by channel: with
    all of them zero, a channel is zero.
    """
    seen: set[tuple[str, LayerKind]] = set()
    for layer in groups.layers:
        if (layer.name, layer.kind) in seen:
            continue
        seen.add((layer.name, layer.kind))
        for tensor, along in layer.kind.writers(layer.groups):
            places = groups.ties.get(f"{layer.name}.{tensor}".lstrip("."), {}).get(along)
            if places is not None:
                yield layer.name, tensor, along, places
