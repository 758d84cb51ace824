"""The space of pruning schedules: how probabilistic pruning runs, and how much of every layer it takes, at a known cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from spaces.base import Row, SearchSpace
from spaces.candidate import Candidate, Value
from spaces.channels.check import equivalence_error, find_checked_groups, whole_rows
from spaces.channels.groups import ChannelGroups
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.cloning.clone import clone
from spaces.domains import Choice, Domain, Real
from spaces.errors import UnsupportedModelError
from spaces.execution.batch import Nested
from spaces.execution.forward import Forward, call
from spaces.importance import criterion as importance
from spaces.importance.criterion import CriterionName
from spaces.sparsifiers.allocation import RatioAllocation, RatioProfile
from spaces.sparsifiers.probabilistic import KEPT_CHANNELS, Probabilistic, ProbabilisticSettings
from spaces.sparsifiers.random_masking import Draw

Numbers = tuple[float, ...]
PAPER: Mapping[str, Value] = {
    "largest": 0.05,
    "flatness": 0.25,
    "share": 0.5,
    "importance": "l1",
    "groups": "filters",
    "draw": "weight",
    "depth": 0.0,
    "width": 0.0,
    "cost": 0.0,
}
"""The constants of Wang, Zhang, Wang, Hu, BMVC 2018, with the same ratio in every layer; half the steps prune (ours)."""


@dataclass(frozen=True)
class PruningScheduleSettings:
    """Options of the schedule space. Two numbers are a range that is searched, one is fixed.

    Attributes:
        macs: Share of the network's MACs that every candidate leaves.
        largest: ``A``, the largest penalty.
        flatness: ``u``, the height of the penalty function's centre as a share of ``A``.
        share: Share of the steps in which all layers are pruned; ``t`` follows from it and the steps there are.
        importance: Criteria of the ranks; input channels are ranked by ``l1`` or ``l2`` (by ``l1`` where another is chosen).
        groups: Unit that is pruned: ``filters`` or ``input_channels``.
        draw: A Bernoulli draw per ``weight`` or per ``group``.
        depth: How much more of later layers is kept.
        width: How much more of wide layers is kept.
        cost: How much more of layers with many MACs is kept.
        include: Name patterns of layers whose channels may go; empty for all.
        exclude: Name patterns of layers whose channels stay.
        max_ratio: Largest share of a layer's channels that may go.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    macs: Numbers = (0.5,)
    largest: Numbers = (0.02, 0.2)
    flatness: Numbers = (0.1, 0.9)
    share: Numbers = (0.2, 0.8)
    importance: tuple[CriterionName, ...] = ("l1", "l2", "bn_scale", "taylor")
    groups: tuple[Literal["filters", "input_channels"], ...] = ("filters", "input_channels")
    draw: tuple[Draw, ...] = ("weight", "group")
    depth: Numbers = (-0.5, 0.5)
    width: Numbers = (-0.5, 0.5)
    cost: Numbers = (-0.5, 0.5)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_ratio: float = 0.95

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        for name in ("macs", "largest", "flatness", "share", "depth", "width", "cost"):
            values = getattr(self, name)
            if not 1 <= len(values) <= 2 or list(values) != sorted(set(values)):
                raise ValueError(f"{name}: expected one number, or a range of two rising ones, got {list(values)}")
            low, high = (0.0, 1.0) if name in ("macs", "largest", "flatness", "share") else (-3.0, 3.0)
            if not (low < values[0] and values[-1] <= high) or (name == "macs" and values[-1] == 1.0):
                raise ValueError(f"{name}: expected numbers between {low:g} and {high:g}, got {list(values)}")
        for name in ("importance", "groups", "draw"):
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}: expected options, each once, got {list(getattr(self, name))}")
        if not 0.0 < self.max_ratio <= 1.0:
            raise ValueError(f"max_ratio must lie above 0 and at most at 1, got {self.max_ratio}")


class PruningSchedule(SearchSpace[PruningScheduleSettings]):
    """Schedules of probabilistic pruning under a whole-network target (BMVC 2018; the shape of the ratios is ours).

    Which channels go is decided by the training; how many of every layer, and so what the network costs, is known before. A
    network that was not trained loses those of the lowest norm.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        settings: Ranges, options and name patterns.
        forward: How ``model`` is run on ``inputs``.
        batches: Not used; spaces that calibrate are given them.

    Raises:
        UnsupportedModelError: The forward pass fails, nothing can be removed, or the share of MACs is out of reach.
    """

    Settings = PruningScheduleSettings
    target_remedy = "lower space.macs to the target"

    def __init__(
        self,
        model: nn.Module,
        inputs: Nested,
        settings: PruningScheduleSettings | None = None,
        *,
        forward: Forward = call,
        batches: Iterable[Nested] = (),
    ) -> None:
        """Find the coupled channel groups, and raise if no schedule reaches the lowest share of MACs."""
        super().__init__(model, inputs, settings, forward=forward)
        settings = self.settings
        self.groups: ChannelGroups = whole_rows(find_checked_groups(model, inputs, settings.include, settings.exclude, forward))
        if not self.groups.groups:
            reasons = sorted({group.reason for group in self.groups.frozen}) or ["it has no layer with channels"]
            raise UnsupportedModelError("nothing in this network can be pruned: " + "; ".join(reasons[:5]))
        self._allocation = RatioAllocation(model, self.groups, settings.max_ratio)
        self._numbers: dict[str, np.ndarray] = {}
        # The hardest of all targets is reached by a schedule, or by none.
        self._allocation.of_target(settings.macs[0], RatioProfile())

    @cached_property
    def channels(self) -> ChannelGroups:
        """The open and frozen channel groups: :attr:`groups`."""
        return self.groups

    @cached_property
    def domains(self) -> Mapping[str, Domain]:
        """Ranges and options of every setting that is left open."""
        settings, domains = self.settings, dict[str, Domain]()
        for name in ("macs", "largest", "flatness", "share", "depth", "width", "cost"):
            values = getattr(settings, name)
            if len(values) == 2:
                domains[name] = Real(values[0], values[1], log=name == "largest")
        for name in ("importance", "groups", "draw"):
            if len(getattr(settings, name)) > 1:
                domains[name] = Choice(getattr(settings, name))
        return domains

    def starting_points(self) -> Sequence[Candidate]:
        """Return the paper's constants, as far as they are open; and the same with a draw per group, where that is."""
        values: dict[str, Value] = {}
        for name, domain in self.domains.items():
            if isinstance(domain, Choice):
                values[name] = PAPER[name] if PAPER[name] in domain.options else domain.options[0]
            elif isinstance(domain, Real):
                values[name] = min(max(float(PAPER.get(name, domain.high)), domain.low), domain.high)
        ours = {**values, "draw": "group"}
        open_draw = "draw" in self.domains and self.domains["draw"].contains("group")
        return [Candidate(values), *([Candidate(ours)] if open_draw and ours != values else [])]

    def schedule(self, candidate: Candidate) -> ProbabilisticSettings:
        """Return the settings of probabilistic pruning that a candidate stands for."""
        self.validate(candidate)
        settings = self.settings
        chosen: dict[str, Any] = {name: candidate.values.get(name, getattr(settings, name)[0]) for name in (*PAPER, "macs")}
        shape = RatioProfile(*(float(chosen.pop(name)) for name in ("depth", "width", "cost")))
        if chosen["groups"] != "filters" and chosen["importance"] not in ("l1", "l2"):
            chosen["importance"] = "l1"
        return ProbabilisticSettings(
            shape=shape, include=settings.include, exclude=settings.exclude, max_ratio=settings.max_ratio, **chosen
        )

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return a copy of ``model`` to prune in training, its keep-mask that of the lowest L1 norms until training decides."""
        self.validate(candidate)
        prepared = clone(model)
        kept = np.ones(self.groups.width, dtype=bool)
        scores = importance.score(model, self.groups, "l1")
        for group, number in zip(self.groups.groups, self.numbers(candidate).tolist(), strict=True):
            kept[group.offset + np.argsort(scores[group.name], kind="stable")[:number]] = False
        device = next(model.parameters()).device
        prepared.register_buffer(KEPT_CHANNELS, torch.from_numpy(kept).to(device), persistent=False)
        return prepared

    def convert(self, prepared: nn.Module) -> nn.Module:
        """Return the network without the channels that the keep-mask of the prepared network removes."""
        plain, mask = self._parted(prepared)
        return apply_cut(plain, plan_cut(self.groups, mask))

    def sparsifier(self, candidate: Candidate) -> Probabilistic:
        """Return the probabilistic pruning that runs as ``candidate`` says."""
        return Probabilistic(self.schedule(candidate), self.groups)

    def check_prepared(self, prepared: nn.Module) -> float:
        """Return the largest difference between the outputs of the sliced and the masked network, in float64.

        Raises:
            EquivalenceError: They differ.
        """
        plain, mask = self._parted(prepared)
        return equivalence_error(plain, self.groups, mask, self._inputs, self._forward)

    def numbers(self, candidate: Candidate) -> np.ndarray:
        """Return the number of removed channels of every group, int64 of shape ``(groups,)``."""
        if candidate.fingerprint not in self._numbers:
            schedule = self.schedule(candidate)
            assert schedule.macs is not None  # noqa: S101 (for the type checker)
            self._numbers[candidate.fingerprint] = self._allocation.of_target(schedule.macs, schedule.shape)
        return self._numbers[candidate.fingerprint]

    def costs(self, candidate: Candidate) -> dict[str, float]:
        """Return ``macs``, ``parameters`` and ``size_bytes``, which the schedule fixes before training."""
        return self._allocation.costs(self.numbers(candidate))

    @cached_property
    def network_macs(self) -> float:
        """Multiply-accumulates of the whole network for one sample."""
        return self._allocation.costs(np.zeros(len(self.groups.groups), dtype=np.int64))["macs"]

    def cheapest(self) -> Candidate:
        """Return the starting point with the lowest share of MACs that is open."""
        lowest = {"macs": self.settings.macs[0]} if "macs" in self.domains else {}
        return Candidate({**self.starting_points()[0].values, **lowest})

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        """Return the cut of an untrained network, as JSON data of the kind ``slice_channels``."""
        return self._transformation(self._allocation.mask(self.numbers(candidate)))

    def transformation_of(self, candidate: Candidate, prepared: nn.Module) -> dict[str, Any]:
        """Return the cut that training decided, as JSON data of the kind ``slice_channels``."""
        return self._transformation(self._parted(prepared)[1])

    def report_rows(self, candidate: Candidate, made: Mapping[str, Any] | None = None) -> dict[str, list[Row]]:
        """Return ``layers``: channels of every group, and how many of them are kept."""
        kept = (self.transformation(candidate) if made is None else made)["candidate"]
        return {"layers": self.groups.rows(Candidate(kept))}

    def _transformation(self, mask: np.ndarray) -> dict[str, Any]:
        kept = Candidate(self.groups.parts(mask)).values
        return {"kind": "slice_channels", "candidate": dict(kept), **plan_cut(self.groups, mask).to_json()}

    def _parted(self, prepared: nn.Module) -> tuple[nn.Module, np.ndarray]:
        """Return a copy without the decisions, and these: a whole keep-mask."""
        plain = clone(prepared)
        mask = plain.get_buffer(KEPT_CHANNELS).cpu().numpy()
        del plain._buffers[KEPT_CHANNELS]
        plain._non_persistent_buffers_set.discard(KEPT_CHANNELS)
        return plain, mask
