"""Gradient-flow cut: redundant filters get no gradient of the objective and decay to zero while the others train on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spaces.channels.cost import ChannelCost
from spaces.channels.groups import ChannelGroups
from spaces.errors import EquivalenceError, SecateursError
from spaces.execution.batch import Nested
from spaces.execution.forward import Forward
from spaces.importance.criterion import Criterion, CriterionName, CriterionOptions, Gather, make_criterion, places_on, writers
from spaces.layers.split_attention import split_attention
from spaces.sparsifiers.allocation import require_ratios
from spaces.sparsifiers.base import Sparsifier
from spaces.sparsifiers.channel_split import ChannelSplit, Scope, shares_of
from spaces.sparsifiers.zeroing import largest_weights, removable_groups, zero_channels

ZERO = 1e-6
"""Weights that count as zero at the end."""

AIM = 1e-7
"""Magnitude of cut weights at the end of their decay."""


@dataclass(frozen=True)
class GradientCutSettings:
    """Options of :class:`GradientCut`.

    Attributes:
        ratio: Share of the channels to remove; 0 cuts nothing, and leaves training as it is to the last bit.
        ratios: Ratios of single groups, by the pattern of the group's name; the first that matches counts, else ``ratio``.
        macs: Share of the network's MACs to be left, instead of ``ratio``; ``ratios`` then say how the groups share it: kept
            shares are proportional to 1 - ratio.
        scope: ``layer`` ranks channels within their group, ``global`` over the whole network.
        importance: Criterion of importance: ``relevance_loss``, or any other.
        exponent: Weight of task relevance against the effect on the loss in ``relevance_loss``.
        smoothing: Share that importance keeps of what was seen before, at every step (ours; 0 for the source's own).
        ramp: Share of the steps in which the number of cut filters rises, on a cubic, to what is asked for (ours; 0 for the
            source's own).
        freeze: Share of the steps after which no filter comes back, and none is cut any more (ours; 1 for the source's own).
        decay_by: How cut filters fade: by a ``schedule`` (ours), a forced factor at every step, so that they are zero at the
            end of ``decay``; or by the training's own ``weight_decay`` alone, the source's plain way, which leaves them small.
        decay: Share of the steps after which all that was cut is zero, by ``schedule``; the rest of them train what is left.
        include: Name patterns of layers whose channels may go; empty for all.
        exclude: Name patterns of layers whose channels stay.
        max_ratio: Largest share of a group's channels that may go; a ratio above it is an error.
        round_to: Kept channels of a group come in multiples of this (what the hardware likes), or are all kept.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    ratio: float = 0.5
    ratios: dict[str, float] = field(default_factory=dict)
    macs: float | None = None
    scope: Scope = "layer"
    importance: CriterionName = "relevance_loss"
    exponent: float = 1.0
    smoothing: float = 0.98
    ramp: float = 0.3
    freeze: float = 0.5
    decay_by: Literal["schedule", "weight_decay"] = "schedule"
    decay: float = 1.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_ratio: float = 0.95
    round_to: int = 1

    def __post_init__(self) -> None:
        for name, ratio in (("ratio", self.ratio), *self.ratios.items()):
            if not 0.0 <= ratio < 1.0:
                raise ValueError(f"{name}: expected a share of channels to remove from 0 to below 1, got {ratio}")
        if self.macs is not None and not 0.0 < self.macs < 1.0:
            raise ValueError(f"macs: expected the share of MACs to be left, between 0 and 1, got {self.macs}")
        if self.ratios and self.scope == "global":
            raise ValueError("ratios: single groups have ratios only within layers (scope: layer)")
        if not 0.0 <= self.ramp <= self.freeze <= 1.0:
            raise ValueError(f"expected 0 <= ramp <= freeze <= 1, got ramp {self.ramp} and freeze {self.freeze}")
        if self.decay_by == "schedule" and not self.freeze < self.decay <= 1.0:
            raise ValueError(
                f"decay: expected a share of the steps above freeze ({self.freeze}) and up to 1, got {self.decay}; a split "
                "that moves until the end (freeze: 1) needs decay_by: weight_decay"
            )
        if self.decay_by == "weight_decay" and self.decay != 1.0:
            raise ValueError(f"decay: expected 1, since weight decay has no end of its own, got {self.decay}")
        if not 0.0 < self.max_ratio <= 1.0:
            raise ValueError(f"max_ratio must lie above 0 and at most at 1, got {self.max_ratio}")
        require_ratios(self.ratio, self.ratios, self.macs, self.max_ratio)
        if self.round_to < 1:
            raise ValueError(f"round_to must be at least 1, got {self.round_to}")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing: expected a number from 0 to below 1, got {self.smoothing}")
        if not self.exponent >= 0.0:
            raise ValueError(f"exponent: expected a number of at least 0, got {self.exponent}")


class GradientCut(Sparsifier):
    """Cuts redundant filters off the objective's gradient, so that they only decay, and are zero at the end.

    The method is that of Gao, Wang, Jing, Yu (Scientia Sinica Informationis 2022) on the update rule of GSM (Ding et al.,
    NeurIPS 2019, arXiv 1909.12778) at filter level: in every step importance and compression ratio split the filters in
    two, and a filter may come back while it still has weight. A BatchNorm behind a filter undoes its decay, so scaling
    factor and shift are cut and decay with it; so do biases.

    The source's filters fade by momentum and weight decay as they are (``decay_by: weight_decay``), which reaches zero in no
    training of usual length; what is left of them then goes at the end, and :attr:`schedule` says how much. Ours, and the
    default, is a forced decay: a cut filter is multiplied, instead of the optimizer's step, with the factor that takes it to
    1e-7 by the last step of the decay, whatever the optimizer. Ours are also the freeze, the smoothing of importance, and the
    ramp: the number of cut filters rises on a cubic (Zhu, Gupta 2017, arXiv 1710.01878).

    Args:
        settings: How to cut.
        channels: The network's channel groups, where they are known; found by :meth:`trace` otherwise.
    """

    Settings = GradientCutSettings
    settings: GradientCutSettings
    removes = True
    lossless = True

    def __init__(self, settings: GradientCutSettings, channels: ChannelGroups | None = None) -> None:
        super().__init__(settings)
        self._channels = channels
        self._split: ChannelSplit | None = None
        self._redundant = torch.zeros(0, dtype=torch.bool)
        self._kept_rows: list[tuple[Tensor, int, Tensor, Tensor]] = []

    @property
    def importance(self) -> str:
        """Name of the criterion of the settings."""
        return self.settings.importance

    def trace(self, model: nn.Module, inputs: Nested, forward: Forward) -> None:
        """Find the channel groups of ``model`` that can go without a trace once they are zero.

        Raises:
            UnsupportedModelError: There are none, or the share of MACs is out of reach.
        """
        settings = self.settings
        if self._channels is None:
            self._channels = removable_groups(model, inputs, settings.include, settings.exclude, forward)
        cost = ChannelCost(model, self._channels)
        asked = (settings.ratio, settings.ratios, settings.macs, settings.scope, settings.max_ratio, settings.round_to)
        self._split = ChannelSplit(cost, self._channels, *asked)

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Bind to the weights of ``model``; :meth:`trace` comes first."""
        if self._channels is None or self._split is None:
            raise SecateursError("gradient cut needs the network's channel groups: expected trace before start")
        settings, channels = self.settings, self._channels
        options = CriterionOptions(settings.smoothing, settings.exponent)
        self._model, self._total = model, total_steps
        self._criterion: Criterion = make_criterion(settings.importance, split_attention(model), channels, options)
        self._step, self._left, self._left_share = 0, 0.0, 0.0
        self._zero_by = max(1, math.ceil(settings.decay * total_steps - 1e-9))
        device = next(model.parameters()).device
        self._redundant = torch.zeros(channels.width, dtype=torch.bool, device=device)
        self._factors = torch.ones(channels.width, dtype=torch.float64, device=device)
        self._writers = [
            (model.get_submodule(name).get_parameter(tensor), dim, places_on(device, places))
            for name, tensor, dim, places in writers(channels)
        ]

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise if cut filters are to fade by a weight decay that the optimizer does not have.

        Raises:
            SecateursError: ``decay_by`` is ``weight_decay``, and the optimizer's is 0.
        """
        decays = [float(group.get("weight_decay", 0.0)) for group in optimizer.param_groups]
        if self.settings.decay_by == "weight_decay" and not max(decays, default=0.0) > 0.0:
            raise SecateursError(
                "gradient_cut: decay_by: weight_decay needs a weight decay to fade by: expected optimizer.weight_decay above "
                "0, got 0; set it, or decay_by: schedule"
            )

    def join(self, gather: Gather) -> None:
        """Let the importance criterion see whole batches."""
        self._criterion.join(gather)

    def before_forward(self, inputs: Nested, targets: Tensor | None) -> None:
        """Show the batch to the importance criterion, while the split may still change."""
        if not self._frozen:
            self._criterion.begin(targets)

    def before_part(self, rows: int) -> None:
        """Show a part of the batch to the importance criterion."""
        if not self._frozen:
            self._criterion.part(rows)

    @torch.no_grad()
    def after_backward(self) -> None:
        """Split the filters, and cut the redundant ones off the gradient."""
        if not self._frozen:
            self._criterion.end()
            self._resplit(self._level)
        self._kept_rows = []
        if not bool(self._redundant.any()):
            return
        cut = torch.cat([self._redundant, self._redundant.new_zeros(1)])
        factors = torch.cat([self._factors, self._factors.new_ones(1)])
        for parameter, dim, places in self._writers:
            index = cut[places].nonzero().flatten()
            if not len(index):
                continue
            if parameter.grad is not None:
                parameter.grad.index_fill_(dim, index, 0.0)
            if self.settings.decay_by == "weight_decay":
                continue
            shape = [-1 if own == dim else 1 for own in range(parameter.dim())]
            factor = factors[places[index]].to(parameter.dtype).reshape(shape)
            self._kept_rows.append((parameter, dim, index, parameter.index_select(dim, index) * factor))

    def _resplit(self, level: float) -> None:
        if self._split is None or level <= 0.0:
            return
        scores = self._criterion.values().cpu().numpy()
        chosen = torch.from_numpy(self._split.redundant(scores, level)).to(self._redundant.device)
        fresh = chosen & ~self._redundant
        if bool(fresh.any()):
            largest = largest_weights(self._model, self._groups).clamp_min(AIM)
            left = self._zero_by - self._step
            self._factors = torch.where(fresh, (AIM / largest) ** (1.0 / left), self._factors)
        self._redundant = chosen

    @torch.no_grad()
    def after_step(self) -> None:
        """Put decayed weights in the place of the optimizer's; by the end of the decay what was cut is exactly zero."""
        for parameter, dim, index, decayed in self._kept_rows:
            parameter.index_copy_(dim, index, decayed)
        self._kept_rows = []
        self._step += 1
        if self._step in (self._zero_by, self._total):
            self._finish()

    def _finish(self) -> None:
        gone = self._redundant.cpu().numpy()
        if not gone.any():
            return
        largest = largest_weights(self._model, self._groups)
        cut, kept = largest[self._redundant], largest[~self._redundant]
        self._left, self._left_share = float(cut.max()), float(cut.mean() / kept.mean().clamp_min(AIM))
        if self.settings.decay_by == "schedule" and not self._left < ZERO:
            raise EquivalenceError(
                f"cut filters should be below {ZERO:g} at the end of their decay, and are at {self._left:.3g}"
            )
        zero_channels(self._model, self._groups, ~gone)

    @torch.no_grad()
    def finish(self) -> None:
        """Set at once to zero all filters that would have been cut, if training ended before the decay did."""
        if not self.finished:
            if not self._frozen:
                self._resplit(1.0)
            zero_channels(self._model, self._groups, ~self._redundant.cpu().numpy())

    @property
    def schedule(self) -> dict[str, Any]:
        """Way in which cut filters fade: ``decay_by``, ``zero_by`` (a step), ``left`` and ``left_share``, with ``text``.

        ``left`` is the largest weight of a cut filter when they were set to zero, ``left_share`` the mean over cut filters of
        the largest weight, over that of kept ones; both 0 before that.
        """
        settings = self.settings
        if self._split is None or not len(self._redundant):
            return {}
        if settings.decay_by == "schedule":
            words = f"cut filters fade by a forced factor, to zero by step {self._zero_by} of {self._total} (ours)"
        else:
            words = "cut filters fade by the training's weight decay alone"
            if self.finished:
                words += f"; when they were removed, they had {self._left_share:.2g} of the weight of kept ones"
        words += f"; the split is final after {100 * settings.freeze:g} % of the steps"
        found = {"decay_by": settings.decay_by, "zero_by": self._zero_by, "left": self._left, "left_share": self._left_share}
        return {**found, "text": words}

    def shares(self) -> list[dict[str, Any]]:
        """Return the share of every group's channels asked for, None with ``scope: global``, and the share cut so far."""
        if self._split is None or not len(self._redundant):
            return []
        return shares_of(self._groups, self._redundant.cpu().numpy(), self._split.asked)

    @property
    def _frozen(self) -> bool:
        """True once the split is final; the first step always makes one."""
        return self._step > 0 and self._step >= self.settings.freeze * self._total

    @property
    def _level(self) -> float:
        """Share of the way to the compression asked for at this step."""
        rising = self.settings.ramp * self._total
        # The last step that still may split must ask for all.
        if self._step + 1 >= self.settings.freeze * self._total or rising <= 0.0:
            return 1.0
        return 1.0 - (1.0 - min(1.0, self._step / rising)) ** 3

    @property
    def _groups(self) -> ChannelGroups:
        if self._channels is None:
            raise SecateursError("gradient cut has seen no network yet: expected trace first")
        return self._channels

    @property
    def finished(self) -> bool:
        """True once the decay is over and the cut filters are zero."""
        return self._step >= self._zero_by

    @property
    def complete(self) -> bool:
        """True once the decay is over; epochs before that do not count for early stopping."""
        return self.finished

    @property
    def channel_groups(self) -> ChannelGroups | None:
        """The channel groups that can go without a trace once they are zero; None before :meth:`trace`."""
        return self._channels

    def keep_masks(self) -> Mapping[str, Tensor]:
        """Return the keep-masks of the important filters, boolean of shape ``(group.size,)``, by group name."""
        if self._channels is None:
            return {}
        kept = np.ones(self._channels.width, dtype=bool)
        if len(self._redundant):
            kept = (~self._redundant).cpu().numpy()
        return {g.name: torch.from_numpy(kept[g.offset : g.offset + g.size].copy()) for g in self._channels.groups}

    def state_dict(self) -> dict[str, Tensor]:
        """Return step, split, decay factors and the criterion's state."""
        learnt = {f"criterion.{name}": tensor for name, tensor in self._criterion.state_dict().items()}
        return {
            "step": torch.tensor(self._step),
            "redundant": self._redundant.clone(),
            "factors": self._factors.clone(),
            "left": torch.tensor([self._left, self._left_share], dtype=torch.float64),
            **learnt,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`."""
        expected, found = tuple(self._redundant.shape), tuple(state["redundant"].shape)
        if found != expected:
            raise SecateursError(f"the state splits channels of shape {found}, this network's are of shape {expected}")
        self._step = int(state["step"])
        self._redundant = state["redundant"].to(self._redundant)
        self._factors = state["factors"].to(self._factors)
        self._left, self._left_share = state["left"].tolist()
        mark = "criterion."
        self._criterion.load_state_dict({n.removeprefix(mark): v for n, v in state.items() if n.startswith(mark)})
