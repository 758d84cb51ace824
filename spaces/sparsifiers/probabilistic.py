"""Structured probabilistic pruning: groups of weights take part in a step with a probability that falls to 0 or stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spaces.channels.check import find_checked_groups, whole_rows
from spaces.channels.groups import ChannelGroups
from spaces.errors import SecateursError, UnsupportedModelError
from spaces.execution.batch import Nested, first_tensor_of
from spaces.execution.forward import Forward
from spaces.importance.criterion import Criterion, CriterionName, CriterionOptions, Gather, make_criterion
from spaces.layers.split_attention import split_attention
from spaces.patterns import require_matches, value_of
from spaces.sparsifiers.allocation import RatioAllocation, RatioProfile, require_ratios
from spaces.sparsifiers.base import Sparsifier
from spaces.sparsifiers.group_masking import GroupMasking
from spaces.sparsifiers.masking import Masking
from spaces.sparsifiers.participation import Participation, PrunedLayer, Ranks, number_to_prune, updates_needed
from spaces.sparsifiers.penalty_function import PenaltyFunction, make_penalty_function
from spaces.sparsifiers.pruned_groups import (
    Columns,
    GroupKind,
    channel_layers,
    channel_scores,
    channel_tensors,
    column_layers,
)
from spaces.sparsifiers.random_masking import Draw, RandomMasking

_NORMS = {"l1": 1, "l2": 2}
COLUMNS_REMARK = (
    "columns stay in the network as zeros: they save no MACs and no bytes, and a later stage that trains fills them again"
)


@dataclass(frozen=True)
class ProbabilisticSettings:
    """Options of structured probabilistic pruning.

    Attributes:
        ratio: ``R``, share of the groups of every layer to prune, where ``macs`` is None.
        ratios: Ratios of single layers, by the pattern of their name; the first that matches counts.
        macs: Share of the network's MACs that is left, instead of ratios (ours).
        shape: How unevenly layers are pruned for ``macs`` (ours).
        groups: What is pruned together, which the patent leaves open: ``columns`` of the im2col matrix (the author's code),
            ``filters`` or ``input_channels``, whose removal saves MACs.
        draw: One Bernoulli draw per ``group`` in every step (ours, and better where it was measured), or per ``weight`` (the
            patent's wording, and the author's default).
        ranks: Groups of a layer that are ranked at an update: its ``survivors`` (the author's code), or ``all`` (the patent's
            wording, with which the last groups take very long).
        final: Whether a group at p = 0 is gone for good (the author's code; claim 1 of the patent does not say it). If not, it
            may come back until its layer has reached its ratio; needs ``ranks: all``.
        importance: Criterion of the ranks; ``l1`` or ``l2`` for input channels and columns.
        penalty: The penalty function, by its name.
        largest: ``A``, the largest penalty.
        flatness: ``u``, the height of the penalty function's centre as a share of ``A``.
        interval: ``t``, steps between two updates of the probabilities; None derives it from ``share`` (ours). Where that gives
            less than 4, the largest penalty is raised instead, since an update costs as much as several steps of masking.
        share: Share of the steps in which the derived interval has all layers pruned; the rest retrains with fixed masks.
        include: Name patterns of layers whose groups may go; empty for all.
        exclude: Name patterns of layers whose groups stay.
        max_ratio: Largest share of a layer's groups that may go; a ratio above it is an error.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    ratio: float = 0.5
    ratios: dict[str, float] = field(default_factory=dict)
    macs: float | None = None
    shape: RatioProfile = field(default_factory=RatioProfile)
    groups: GroupKind = "filters"
    draw: Draw = "group"
    ranks: Ranks = "survivors"
    final: bool = True
    importance: CriterionName = "l1"
    penalty: str = "exponential"
    largest: float = 0.05
    flatness: float = 0.25
    interval: int | None = None
    share: float = 0.5
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_ratio: float = 0.95

    def __post_init__(self) -> None:
        for name, ratio in (("ratio", self.ratio), *self.ratios.items()):
            if not 0.0 <= ratio < 1.0:
                raise ValueError(f"{name}: expected a share of groups to prune from 0 to below 1, got {ratio}")
        if self.macs is not None and not 0.0 < self.macs < 1.0:
            raise ValueError(f"macs: expected the share of MACs to be left, between 0 and 1, got {self.macs}")
        if self.macs is not None and self.groups == "columns":
            raise ValueError("macs: columns save no MACs; give a ratio")
        if self.macs is not None and self.ratios:
            raise ValueError("ratios: expected none beside macs, which decides them")
        for name, value in (("largest", self.largest), ("flatness", self.flatness), ("max_ratio", self.max_ratio)):
            if not 0.0 < value <= 1.0:
                raise ValueError(f"{name}: expected a number above 0 and at most 1, got {value}")
        require_ratios(self.ratio, self.ratios, self.macs, self.max_ratio)
        if not self.final and self.ranks != "all":
            raise ValueError("final: false needs ranks: all, since only groups that are ranked come back")
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share: expected a share of the steps above 0 and at most 1, got {self.share}")
        if self.interval is not None and self.interval < 1:
            raise ValueError(f"interval: expected at least 1 step, got {self.interval}")
        if self.groups != "filters" and self.importance not in _NORMS:
            raise ValueError(f"importance: expected l1 or l2 for {self.groups}, got {self.importance}")
        try:
            make_penalty_function(self.penalty, self.largest, self.flatness)
        except SecateursError as error:
            raise ValueError(f"penalty: {error}") from None


class Probabilistic(Sparsifier):
    """Prunes by participation probabilities (CN109034372B; Wang, Zhang, Wang, Hu, BMVC 2018, arXiv 1709.06994).

    Every group starts at p = 1. Every ``interval`` steps p falls by the penalty function of the group's rank, which is its
    importance among the survivors of its layer, averaged over the updates; p = 0 is for good. In every step masks are drawn
    from p; masked weights take no part in it and come out of it as they were, moments and weight decay included. When a layer
    has lost its share of groups, its other groups are back at p = 1; when every layer has, training goes on with fixed masks.

    From the author's code, not from the patent's claim: ranks among the survivors, and p = 0 being for good. Ours: coupled
    layers (residual additions, say) share their groups; the interval follows from the steps there are, and the largest penalty
    is raised where they are few (:attr:`schedule` says so); what is missing when training ends goes by lowest p; and one draw
    per group.

    Args:
        settings: How to prune.
        channels: The network's channel groups, where they are known; found by :meth:`trace` otherwise.
    """

    Settings = ProbabilisticSettings
    settings: ProbabilisticSettings
    removes = True

    def __init__(self, settings: ProbabilisticSettings, channels: ChannelGroups | None = None) -> None:
        super().__init__(settings)
        self._channels = channels
        self._penalty: PenaltyFunction = make_penalty_function(settings.penalty, settings.largest, settings.flatness)
        self._numbers = np.zeros(0, dtype=np.int64)
        self._columns: list[tuple[str, int]] = []
        self._step = 0
        self._started = False

    @property
    def importance(self) -> str:
        """Name of the criterion of the settings."""
        return self.settings.importance

    def trace(self, model: nn.Module, inputs: Nested, forward: Forward) -> None:
        """Find the groups of ``model``, and how many of each layer go.

        Raises:
            UnsupportedModelError: There is nothing to prune, or the share of MACs is out of reach.
        """
        settings = self.settings
        if settings.groups == "columns":
            sizes = column_layers(model, settings.include, settings.exclude)
            require_matches(settings.ratios, (name for name, _ in model.named_modules() if name))
            self._columns = [(name, self._number_of_columns(name, size)) for name, size in sizes]
            if not any(number for _, number in self._columns):
                raise UnsupportedModelError("no column of this network is to be pruned: see ratio, include, exclude")
            return
        if self._channels is None:
            self._channels = whole_rows(find_checked_groups(model, inputs, settings.include, settings.exclude, forward))
        if self._channels.groups:
            self._numbers = numbers_of(model, self._channels, settings)
        if not self._numbers.any():
            reasons = sorted({group.reason for group in self._channels.frozen}) or ["the ratio is 0"]
            raise UnsupportedModelError(
                "nothing of this network is to be pruned: " + "; ".join(reasons[:5]) + "; see ratio, include, exclude"
            )

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Bind to the weights of ``model``; :meth:`trace` comes first.

        Raises:
            SecateursError: :meth:`trace` was not called.
        """
        settings = self.settings
        self._model = model
        self._criterion: Criterion | None = None
        if settings.groups == "columns":
            self._matrix = Columns(model, self._columns)
            layers, tensors = self._matrix.layers, self._matrix.tensors
        elif self._channels is None:
            raise SecateursError("probabilistic pruning needs the network's channel groups: expected trace before start")
        else:
            layers = channel_layers(self._channels, self._numbers)
            tensors = channel_tensors(model, self._channels, settings.groups, settings.draw)
            if settings.groups == "filters":
                options = CriterionOptions(smoothing=0.98)
                self._criterion = make_criterion(settings.importance, split_attention(model), self._channels, options)
        self._used, self._interval, self._total = self._penalty, settings.interval or 0, total_steps
        if not self._interval:
            self._used, self._interval = derived_pace(layers, settings, settings.share * total_steps)
        self._needed = max(updates_needed(one.size, one.number, self._used, settings.ranks) for one in layers)
        self._participation = Participation(layers, self._used, settings.ranks, settings.final)
        along_rows = settings.draw == "group" and settings.groups != "columns"
        self._masking: Masking = GroupMasking(tensors) if along_rows else RandomMasking(tensors, settings.draw)
        self._fixed = False
        self._started = True

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Receive the optimizer whose moments are restored with masked weights."""
        self._masking.bind(optimizer)

    def join(self, gather: Gather) -> None:
        """Let an importance criterion that learns from batches see whole ones."""
        if self._criterion is not None:
            self._criterion.join(gather)

    def before_forward(self, inputs: Nested, targets: Tensor | None) -> None:
        """Update the probabilities where it is time, and draw the masks of this step."""
        if not self._fixed and self._step and self._step % self._interval == 0:
            self._participation.update(self._scores(), self._step)
            self._masking.set(self._participation.drawn)
            self._fixed = self._participation.done
        if self._criterion is not None and not self._fixed:
            self._criterion.begin(targets)
        example = first_tensor_of(inputs)
        generator = torch.Generator("cpu" if example is None else example.device)
        # The epoch's seed, which the loop has set: so a step's masks are the same after a kill.
        generator.manual_seed((torch.initial_seed() * 1_000_003 + self._step) % 2**63)
        self._masking.apply(generator)

    def before_part(self, rows: int) -> None:
        """Show a part of the batch to the importance criterion."""
        if self._criterion is not None and not self._fixed:
            self._criterion.part(rows)

    def after_backward(self) -> None:
        """Remember the moments of masked weights."""
        if self._criterion is not None and not self._fixed:
            self._criterion.end()
        self._masking.hold_moments()

    def after_step(self) -> None:
        """Restore masked weights and their moments."""
        self._masking.restore()
        self._step += 1

    def finish(self) -> None:
        """Prune the groups still missing, lowest p first, and write the kept channels into a prepared network's buffer."""
        self._participation.finish(self._step)
        self._masking.set(self._participation.p)
        self._fixed = True
        if KEPT_CHANNELS in dict(self._model.named_buffers()):
            kept = torch.from_numpy(self._participation.p > 0.0)
            self._model.get_buffer(KEPT_CHANNELS).copy_(kept)

    @property
    def finished(self) -> bool:
        """True once every layer has lost its share."""
        return self._participation.done

    @property
    def complete(self) -> bool:
        """True once every layer has lost its share; epochs before that do not count for early stopping."""
        return self._participation.done

    @property
    def channel_groups(self) -> ChannelGroups | None:
        """The coupled channel groups; None for columns and before :meth:`trace`."""
        return None if self.settings.groups == "columns" else self._channels

    def keep_masks(self) -> Mapping[str, Tensor]:
        """Return the keep-masks of the groups that still take part, boolean of shape ``(group.size,)``, by group name."""
        if self._channels is None or not self._started:
            return {}
        kept = self._participation.p > 0.0
        return {g.name: torch.from_numpy(kept[g.offset : g.offset + g.size].copy()) for g in self._channels.groups}

    @property
    def remark(self) -> str:
        """The caveat that columns stay in the network as zeros; empty for filters and input channels."""
        return COLUMNS_REMARK if self.settings.groups == "columns" else ""

    @property
    def interval(self) -> int:
        """Steps between two updates; known once started."""
        return self._interval

    @property
    def schedule(self) -> dict[str, Any]:
        """Constants that are used: ``largest`` (A), ``flatness`` (u), ``interval`` (t) and numbers of updates, with ``text``.

        ``updates`` there are until the end of training, ``needed`` while ranks stay; ``asked`` is the largest penalty of the
        settings, and ``forced`` the number of groups that went at the end for want of updates.
        """
        if not self._started:
            return {}
        updates, forced = max(0, self._total - 1) // self._interval, self._participation.forced
        largest, asked = self._used.largest, self.settings.largest
        words = [
            f"A {largest:.3g}, u {self._used.flatness:g}, t {self._interval}: {updates} updates in {self._total} steps, "
            f"{self._needed} needed while ranks stay"
        ]
        if largest > asked:
            there = int(self.settings.share * self._total / SHORTEST_INTERVAL)
            words.append(f"largest step raised from {asked:g} to {largest:.3g}, since there are only {there} updates")
        if updates < self._needed:
            words.append("too few updates: groups still missing at the end go by lowest p")
        if forced:
            words.append(f"{forced} of {int(sum(layer.number for layer in self._participation.layers))} groups went so")
        return {
            "largest": largest,
            "asked": asked,
            "flatness": self._used.flatness,
            "interval": self._interval,
            "updates": updates,
            "needed": self._needed,
            "steps": self._total,
            "forced": forced,
            "text": "; ".join(words),
        }

    def shares(self) -> list[dict[str, Any]]:
        """Return the share of every layer's groups asked for, and the share at p = 0."""
        if not self._started:
            return []
        p = self._participation.p
        return [
            {
                "name": layer.name,
                "channels": layer.size,
                "asked": layer.number / layer.size,
                "reached": float((p[layer.offset : layer.offset + layer.size] == 0.0).mean()),
            }
            for layer in self._participation.layers
        ]

    def record(self) -> dict[str, Any]:
        """Return the distribution of the probabilities over time."""
        return self._participation.record()

    def state_dict(self) -> dict[str, Tensor]:
        """Return step, probabilities and the criterion's state."""
        learnt = {} if self._criterion is None else self._criterion.state_dict()
        return {
            "step": torch.tensor(self._step),
            **self._participation.state_dict(),
            **{f"criterion.{name}": tensor for name, tensor in learnt.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`."""
        expected, found = self._participation.p.shape, tuple(state["p"].shape)
        if found != expected:
            raise SecateursError(f"the state has probabilities of shape {found}, this network's groups are of shape {expected}")
        self._step = int(state["step"])
        self._participation.load_state_dict(state)
        self._masking.set(self._participation.drawn)
        self._fixed = self._participation.done
        if self._criterion is not None:
            mark = "criterion."
            self._criterion.load_state_dict({n.removeprefix(mark): v for n, v in state.items() if n.startswith(mark)})

    def _scores(self) -> np.ndarray:
        if self._criterion is not None:
            values = self._criterion.values()
        elif self._channels is not None:
            values = channel_scores(self._model, self._channels, _NORMS[self.settings.importance])
        else:
            values = self._matrix.scores(_NORMS[self.settings.importance])
        scores: np.ndarray = values.cpu().numpy()
        return scores

    def _number_of_columns(self, name: str, size: int) -> int:
        settings = self.settings
        return number_to_prune(size, value_of(name, settings.ratios, settings.ratio))


SHORTEST_INTERVAL = 4
"""Fewest steps between two updates, where the interval is derived and the penalty can be raised."""

KEPT_CHANNELS = "channel_keep_mask"
"""Name of the buffer with a prepared network's keep-mask, boolean of shape ``(groups.width,)``."""


def numbers_of(model: nn.Module, groups: ChannelGroups, settings: ProbabilisticSettings) -> np.ndarray:
    """Return the numbers of channels to prune of every group, int64 of shape ``(groups,)``.

    Raises:
        UnsupportedModelError: The share of MACs is out of reach.
    """
    allocation = RatioAllocation(model, groups, settings.max_ratio)
    if settings.macs is not None:
        return allocation.of_target(settings.macs, settings.shape)
    return allocation.of_ratios(settings.ratios, settings.ratio)


def derived_pace(layers: list[PrunedLayer], settings: ProbabilisticSettings, steps: float) -> tuple[PenaltyFunction, int]:
    """Return the penalty function and the largest interval at which every layer is done within ``steps``, if ranks stay.

    Where updates at the shortest interval are not enough, the largest penalty is raised (ours), up to 1.
    """
    largest, updates = settings.largest, max(1.0, steps / SHORTEST_INTERVAL)
    while True:
        penalty = make_penalty_function(settings.penalty, largest, settings.flatness)
        needed = max(1, *(updates_needed(layer.size, layer.number, penalty, settings.ranks) for layer in layers), 1)
        if needed <= updates or largest >= 1.0:
            return penalty, max(1, int(steps / needed))
        largest = min(1.0, 1.02 * largest * needed / updates)
