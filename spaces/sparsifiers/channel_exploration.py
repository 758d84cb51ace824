"""Channel exploration: channels leave and come back while a network trains, and budgets move between its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from spaces.channels.cost import ChannelCost
from spaces.channels.groups import ChannelGroups
from spaces.errors import SecateursError
from spaces.execution.batch import Nested
from spaces.execution.forward import Forward
from spaces.importance.criterion import make_criterion
from spaces.layers.split_attention import split_attention
from spaces.sparsifiers.allocation import require_ratios
from spaces.sparsifiers.base import Sparsifier
from spaces.sparsifiers.channel_split import ChannelSplit, shares_of
from spaces.sparsifiers.channel_values import ChannelValues
from spaces.sparsifiers.column_subset import leverage_scores, residuals
from spaces.sparsifiers.zeroing import removable_groups


@dataclass(frozen=True)
class ChannelExplorationSettings:
    """Options of :class:`ChannelExploration`.

    Attributes:
        ratio: Share of the network's channels to remove.
        macs: Share of the network's MACs to be left, instead of ``ratio``.
        regrow: Share of a layer's channels that come back at first; it falls to 0 on a cosine.
        explorations: Number of times at which channels leave and come back; the last one only removes (ours: the source has one
            every two epochs).
        explore: Share of the steps after which the channels are final; the rest of them train what is left.
        include: Name patterns of layers whose channels may go; empty for all.
        exclude: Name patterns of layers whose channels stay.
        max_ratio: Largest share of a group's channels that may go.
        round_to: Kept channels of a group come in multiples of this (what the hardware likes), or are all kept.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    ratio: float = 0.5
    macs: float | None = None
    regrow: float = 0.3
    explorations: int = 20
    explore: float = 0.72
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_ratio: float = 0.95
    round_to: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise ValueError(f"ratio: expected a share of channels to remove between 0 and 1, got {self.ratio}")
        if self.macs is not None and not 0.0 < self.macs < 1.0:
            raise ValueError(f"macs: expected the share of MACs to be left, between 0 and 1, got {self.macs}")
        if not 0.0 <= self.regrow < 1.0:
            raise ValueError(f"regrow: expected a share of channels from 0 to below 1, got {self.regrow}")
        if self.explorations < 1:
            raise ValueError(f"explorations: expected at least 1, got {self.explorations}")
        if not 0.0 < self.explore <= 1.0:
            raise ValueError(f"explore: expected a share of the steps above 0 and up to 1, got {self.explore}")
        if not 0.0 < self.max_ratio <= 1.0:
            raise ValueError(f"max_ratio must lie above 0 and at most at 1, got {self.max_ratio}")
        require_ratios(self.ratio, {}, self.macs, self.max_ratio)
        if self.round_to < 1:
            raise ValueError(f"round_to must be at least 1, got {self.round_to}")


class ChannelExploration(Sparsifier):
    """Removes channels and lets some come back, several times in a training that ends with as many as were asked for.

    CHEX (Hou et al., CVPR 2022, arXiv 2203.15794). Each time, the number of channels that every layer keeps follows from the
    scaling factors of BatchNorm, ranked over the whole network; which ones is column subset selection, by leverage scores. Of
    those that are out, a falling share comes back, drawn by what the kept ones do not span, with the values that they had when
    they were last in use.

    Ours is that coupled channels are chosen together, by the weights of all layers that write them, each over its norm; that
    the number of channels can follow from a share of MACs; and that weights which read a channel leave and come back with it,
    as the running statistics do, while moments of the optimizer begin at zero again. In a layer without BatchNorm the norms of
    its filters stand for the factors.

    Args:
        settings: How to explore.
        channels: The network's channel groups, where they are known; found by :meth:`trace` otherwise.
    """

    Settings = ChannelExplorationSettings
    settings: ChannelExplorationSettings
    removes = True
    lossless = True

    def __init__(self, settings: ChannelExplorationSettings, channels: ChannelGroups | None = None) -> None:
        super().__init__(settings)
        self._channels = channels
        self._split: ChannelSplit | None = None
        self._values: ChannelValues | None = None
        self._steps: list[int] = []
        self._step = 0

    @property
    def importance(self) -> str:
        """Name of the criterion that budgets follow from."""
        return "bn_scale"

    def trace(self, model: nn.Module, inputs: Nested, forward: Forward) -> None:
        """Find the channel groups of ``model`` that can go without a trace once they are zero.

        Raises:
            UnsupportedModelError: There are none, or the share of MACs is out of reach.
        """
        settings = self.settings
        if self._channels is None:
            self._channels = removable_groups(model, inputs, settings.include, settings.exclude, forward)
        self._split = ChannelSplit(
            ChannelCost(model, self._channels),
            self._channels,
            settings.ratio,
            {},
            settings.macs,
            "global",
            settings.max_ratio,
            settings.round_to,
            relative=False,
        )

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Bind to the weights of ``model``; :meth:`trace` comes first."""
        if self._channels is None or self._split is None:
            raise SecateursError("channel exploration needs the network's channel groups: expected trace before start")
        settings = self.settings
        self._redundant = self._split.redundant
        self._criterion = make_criterion("bn_scale", split_attention(model), self._channels)
        self._values = ChannelValues(model, self._channels)
        self._step, self._total = 0, total_steps
        share = settings.explore * total_steps / settings.explorations
        every = {math.ceil(share * number - 1e-9) for number in range(1, settings.explorations + 1)}
        self._steps = sorted(max(1, step) for step in every)

    def bind(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer's moments of a channel leave with it."""
        self._known.bind(optimizer)

    def after_backward(self) -> None:
        """Keep channels that are out from learning."""
        self._known.mask_gradients()

    def after_step(self) -> None:
        """Keep channels that are out at zero; and where it is time, let channels leave and come back."""
        self._known.mask_weights()
        self._step += 1
        if self._step in self._steps:
            # After the last one nothing comes back.
            place = (self._steps.index(self._step) + 1) / len(self._steps)
            self._explore(0.5 * (1.0 + math.cos(math.pi * place)) * self.settings.regrow)

    def finish(self) -> None:
        """Remove at once what is too many, if training ended before the last exploration."""
        if not self.finished:
            self._explore(0.0)

    @torch.no_grad()
    def _explore(self, regrow: float) -> None:
        """Choose the channels that are in use until the next time.

        Args:
            regrow: Share of a layer's channels that come back.
        """
        values, groups = self._known, self._groups
        gone = self._redundant(self._criterion.values().cpu().numpy())
        used = np.zeros(groups.width, dtype=bool)
        grams = values.grams(values.used)
        kept = {}
        for group in groups.groups:
            block = slice(group.offset, group.offset + group.size)
            number = group.size - int(gone[block].sum())
            kept[group.name] = leverage_scores(grams[group.name], number).argsort(descending=True, stable=True)[:number]
            used[group.offset + kept[group.name].numpy()] = True
        if regrow > 0.0:
            grams = values.grams(None)
            # The epoch's seed, which the loop has set: so the draws are the same after a kill.
            generator = torch.Generator().manual_seed((torch.initial_seed() * 1_000_003 + self._step) % 2**63)
            for group in groups.groups:
                out = np.flatnonzero(~used[group.offset : group.offset + group.size])
                number = min(len(out), math.floor(regrow * group.size + 1e-9))
                if number:
                    chances = residuals(grams[group.name], kept[group.name], torch.from_numpy(out))
                    used[group.offset + out[torch.multinomial(chances, number, generator=generator).numpy()]] = True
        values.use(torch.from_numpy(used))

    @property
    def _groups(self) -> ChannelGroups:
        if self._channels is None:
            raise SecateursError("channel exploration has seen no network yet: expected trace first")
        return self._channels

    @property
    def _known(self) -> ChannelValues:
        if self._values is None:
            raise SecateursError("channel exploration is bound to no network yet: expected start first")
        return self._values

    @property
    def finished(self) -> bool:
        """True once the channels are final."""
        return bool(self._steps) and self._step >= self._steps[-1]

    @property
    def complete(self) -> bool:
        """True once the channels are final; epochs before that do not count for early stopping."""
        return self.finished

    @property
    def schedule(self) -> dict[str, Any]:
        """Steps at which channels leave and come back, ``steps``, with ``text``."""
        if not self._steps:
            return {}
        words = (
            f"channels leave and come back {len(self._steps)} times, at first {100 * self.settings.regrow:g} % of a layer; "
            f"they are final after step {self._steps[-1]} of {self._total}"
        )
        return {"steps": list(self._steps), "text": words}

    @property
    def channel_groups(self) -> ChannelGroups | None:
        """The channel groups that can go without a trace once they are zero; None before :meth:`trace`."""
        return self._channels

    def keep_masks(self) -> Mapping[str, Tensor]:
        """Return the keep-masks of the channels in use, boolean of shape ``(group.size,)``, by group name."""
        if self._channels is None:
            return {}
        used = np.ones(self._channels.width, dtype=bool) if self._values is None else self._values.used.cpu().numpy()
        return {name: torch.from_numpy(mask.copy()) for name, mask in self._channels.parts(used).items()}

    def shares(self) -> list[dict[str, Any]]:
        """Return the share of every group's channels that are out; only the whole network has one that was asked for."""
        return [] if self._values is None else shares_of(self._groups, ~self._values.used.cpu().numpy(), None)

    def state_dict(self) -> dict[str, Tensor]:
        """Return step, channels in use, and the last values of the others."""
        return {"step": torch.tensor(self._step), **self._known.state_dict()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`."""
        self._known.load_state_dict({name: tensor for name, tensor in state.items() if name != "step"})
        self._step = int(state["step"])
