"""The space of pruning ratios: which share of its filters a layer, a stage or the whole network loses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from spaces.base import Row, SearchSpace, Solve
from spaces.candidate import Candidate, Value
from spaces.channel_mask import PREPARED, ChannelMask, ChannelMaskSettings
from spaces.channels.cost import ChannelCost
from spaces.channels.groups import ChannelGroups, Group
from spaces.cloning.clone import clone
from spaces.domains import Choice
from spaces.errors import SecateursError, UnsupportedModelError
from spaces.execution.batch import Nested
from spaces.execution.forward import Forward, call
from spaces.filter_ratio_settings import FilterRatioSettings
from spaces.importance.criterion import CriterionOptions, Observations, make_criterion, score
from spaces.sparsifiers.base import Sparsifier
from spaces.sparsifiers.channel_split import ChannelSplit, removable
from spaces.sparsifiers.gradient_cut import GradientCut, GradientCutSettings
from spaces.sparsifiers.zeroing import lossless_groups, removal_change

NETWORK = "network"
"""The decision where there is one ratio for all."""


class FilterRatio(SearchSpace[FilterRatioSettings]):
    """Pruning ratios over the coupled channel groups of one network; importance decides which filters they remove.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        settings: What has a ratio, and how filters are removed.
        forward: How ``model`` is run on ``inputs``.
        batches: Input batches to calibrate the compensation on.

    Raises:
        UnsupportedModelError: Nothing can be removed, a pattern matches nothing, or ``macs`` is out of reach.
    """

    Settings = FilterRatioSettings

    def __init__(
        self,
        model: nn.Module,
        inputs: Nested,
        settings: FilterRatioSettings | None = None,
        *,
        forward: Forward = call,
        batches: Iterable[Nested] = (),
    ) -> None:
        """Find the groups that may be cut and, where the criterion needs no batches, score their filters."""
        super().__init__(model, inputs, settings, forward=forward)
        settings = self.settings
        cuts = settings.method == "gradient_cut"
        compensate = settings.compensate and not cuts
        options = ChannelMaskSettings(settings.round_to, settings.include, settings.exclude, settings.max_ratio, compensate)
        self._masks = ChannelMask(model, inputs, options, forward=forward, batches=batches)
        self.groups: ChannelGroups = self._masks.groups
        if cuts:
            self.groups = lossless_groups(model, self._masks.groups, inputs, forward)
        if not self.groups.groups:
            reasons = "; ".join(sorted({group.reason for group in self.groups.frozen})[:5])
            raise UnsupportedModelError(f"no filter of this network can be cut: {reasons}; see include, exclude and method")
        self._cost = ChannelCost(model, self.groups)
        self._learns = make_criterion(settings.importance, model, self.groups).learns
        # Kept until the importance is learnt, and not shipped with the space afterwards.
        self._model: nn.Module | None = model if self._learns else None
        self._scores: np.ndarray | None = None if self._learns else self._scored(model, None)
        # Out of reach for one candidate is out of reach for all.
        self._gone(self.sample(np.random.default_rng(0)), np.zeros(self.groups.width))

    @cached_property
    def channels(self) -> ChannelGroups:
        """The channel groups that may be cut, and those that stay: :attr:`groups`."""
        return self.groups

    @cached_property
    def learns(self) -> bool:
        """True if the criterion of importance needs batches."""
        return self._learns

    def learn(self, seen: Observations) -> None:
        """Learn the importance of filters from batches, where the criterion needs them; once, before candidates are built."""
        if self._model is not None:
            self._scores = self._scored(self._model, seen)
            self._model = None

    @cached_property
    def domains(self) -> Mapping[str, Choice]:
        """Legal ratios of every layer, stage or of the network, ascending."""
        return {name: Choice(tuple(self._ratios(groups))) for name, groups in self._decided.items()}

    @cached_property
    def levels(self) -> Mapping[str, Sequence[Value]]:
        """Ratios of every decision, the highest first: it leaves the cheapest network."""
        return {name: tuple(reversed(domain.options)) for name, domain in self.domains.items()}

    @cached_property
    def budgeted(self) -> bool:
        """True if all candidates have the same MACs, that of the setting ``macs``."""
        return self.settings.macs is not None

    def gains(self) -> Mapping[str, np.ndarray]:
        """Return the mean score of the filters that each level adds; ranks where a ratio is that of several groups."""
        found = {}
        for name, levels in self.levels.items():
            found[name] = np.linspace(1.0, 1.0 / len(levels), len(levels))
            if len(self._decided[name]) == 1 and self._scores is not None:
                (group,) = self._decided[name]
                ranked = np.sort(self._scores[group.offset : group.offset + group.size])[::-1]
                kept = np.asarray([0, *(group.size - self._removed((group,), float(r))[0] for r in levels)])
                found[name] = np.diff(np.concatenate([[0.0], np.cumsum(ranked)])[kept]) / np.diff(kept)
        return found

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return a copy with the removed filters at zero; for ``gradient_cut`` all are there and decay in training."""
        named = self._kept(candidate)
        if self.settings.method == "one_shot":
            return self._masks.prepare(model, named)
        prepared = clone(model)
        prepared.register_buffer(PREPARED, torch.from_numpy(self._masks.groups.mask(named)), persistent=False)
        return prepared

    def convert(self, prepared: nn.Module) -> nn.Module:
        """Return the network without the filters that the prepared network's keep-mask removes."""
        return self._masks.convert(prepared)

    def realize(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return the network without the least important filters, as many as the ratios ask for."""
        return self._masks.realize(model, self._kept(candidate))

    def reconstruct(self, model: nn.Module, candidate: Candidate, solve: Solve) -> nn.Module:
        """Return the network without the filters that go, its layers solved from their plain slices."""
        return self._masks.reconstruct(model, self._kept(candidate), solve)

    def sparsifier(self, candidate: Candidate) -> Sparsifier | None:
        """Return the gradient cut of the candidate's ratios; None for ``one_shot``."""
        if self.settings.method == "one_shot":
            return None
        self.validate(candidate)
        return RecordedCut(self.settings.cut(*self._asked(candidate)), self.groups, self._masks.groups)

    def check(self, model: nn.Module, candidate: Candidate) -> float:
        """Return the largest difference between the outputs of the sliced and the masked network, in float64.

        Raises:
            EquivalenceError: They differ.
        """
        return self._masks.check(model, self._kept(candidate))

    def check_prepared(self, prepared: nn.Module) -> float:
        """Return the difference of :meth:`check` for a trained network, after a proof that cut filters have no effect left.

        Raises:
            EquivalenceError: The sliced network answers otherwise than the masked one, or than the trained one.
        """
        if self.settings.method == "gradient_cut":
            removal_change(prepared, self.convert(prepared), self._inputs, self._forward)
        return self._masks.check_prepared(prepared)

    def costs(self, candidate: Candidate) -> dict[str, float]:
        """Return ``macs``, ``parameters`` and ``size_bytes``; nothing where training decides how many filters a layer loses."""
        self.validate(candidate)
        if self.settings.scope == "global" and self.settings.method == "gradient_cut":
            return {}
        scores = self._scores if self._scores is not None else np.zeros(self.groups.width)
        return self._cost.of(~self._gone(candidate, scores))

    @cached_property
    def network_macs(self) -> float:
        """Multiply-accumulates of the whole network for one sample."""
        return self._masks.network_macs

    def cheapest(self) -> Candidate:
        """Return the candidate of the highest ratios."""
        return Candidate({name: levels[0] for name, levels in self.levels.items()})

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        """Return the kept indices of every tensor, as JSON data of the kind ``slice_channels``."""
        return self._masks.transformation(self._kept(candidate))

    def transformation_of(self, candidate: Candidate, prepared: nn.Module) -> dict[str, Any]:
        """Return the :meth:`transformation` of the filters that training kept."""
        mask = prepared.get_buffer(PREPARED).cpu().numpy()
        return self._masks.transformation(Candidate(self._masks.groups.parts(mask)))

    def report_rows(self, candidate: Candidate, made: Mapping[str, Any] | None = None) -> dict[str, list[Row]]:
        """Return ``layers``: channels of every group, and how many of them the ratios or the training kept."""
        return self._masks.report_rows(candidate, self.transformation(candidate) if made is None else made)

    @cached_property
    def _decided(self) -> dict[str, tuple[Group, ...]]:
        """Groups of every decision, in graph order."""
        groups = self.groups.groups
        if self.settings.per == "network":
            return {NETWORK: groups}
        found: dict[str, tuple[Group, ...]] = {}
        named = len({group.name.partition(".")[0] for group in groups}) > 1
        for group in groups:
            stage = group.name.partition(".")[0] if named else f"width {group.size}"
            name = group.name if self.settings.per == "layer" else stage
            found[name] = (*found.get(name, ()), group)
        return found

    def _ratios(self, groups: Sequence[Group]) -> list[float]:
        """Return the ratios of a decision, ascending, of those that remove the same only the lowest."""
        found: dict[tuple[int, ...], float] = {}
        for level in range(self.settings.levels):
            ratio = round(level / self.settings.levels, 6)
            if ratio <= self.settings.max_ratio + 1e-9:
                found.setdefault(self._removed(groups, ratio), ratio)
        return list(found.values())

    def _removed(self, groups: Sequence[Group], ratio: float) -> tuple[int, ...]:
        sizes = np.asarray([group.size for group in groups])
        steps = np.asarray([group.multiple(self.settings.round_to) for group in groups])
        return tuple(removable(sizes, np.full(len(sizes), ratio), steps).tolist())

    def _asked(self, candidate: Candidate) -> tuple[float, dict[str, float]]:
        """Return the ratio of the whole network, and those of single groups: one of the two decides."""
        if self.settings.scope == "global":
            return candidate.number(NETWORK), {}
        decided = self._decided.items()
        return 0.0, {group.name: candidate.number(name) for name, groups in decided for group in groups}

    def _scored(self, model: nn.Module, seen: Observations | None) -> np.ndarray:
        options = CriterionOptions(exponent=self.settings.exponent)
        scores = score(model, self.groups, self.settings.importance, seen, options)
        return np.concatenate([scores[group.name] for group in self.groups.groups])

    def _gone(self, candidate: Candidate, scores: np.ndarray) -> np.ndarray:
        """Return which filters go by importance, boolean of shape ``(groups.width,)``."""
        settings = self.settings
        asked = self._asked(candidate)
        split = ChannelSplit(
            self._cost, self.groups, *asked, settings.macs, settings.scope, settings.max_ratio, settings.round_to
        )
        return split.redundant(scores)

    def _kept(self, candidate: Candidate) -> Candidate:
        """Return the candidate of keep-masks that the ratios stand for."""
        self.validate(candidate)
        if self._scores is None:
            raise SecateursError(f"importance by {self.settings.importance} learns from batches: expected `learn` before this")
        kept = ~self._gone(candidate, self._scores)
        whole = {group.name: np.ones(group.size, dtype=bool) for group in self._masks.groups.groups}
        return Candidate(whole | self.groups.parts(kept))


class RecordedCut(GradientCut):
    """Gradient cut that leaves what it decided in the prepared network's keep-mask.

    Args:
        settings: How to cut.
        channels: The groups that may be cut.
        whole: All groups, over which the keep-mask goes.
    """

    def __init__(self, settings: GradientCutSettings, channels: ChannelGroups, whole: ChannelGroups) -> None:
        """Keep ``whole``, over which the keep-mask goes."""
        super().__init__(settings, channels)
        self._whole = whole

    def finish(self) -> None:
        """End the cut, and write its decision into the keep-mask of the prepared network."""
        super().finish()
        decided, mask = self.keep_masks(), self._model.get_buffer(PREPARED)
        for group in self._whole.groups:
            if group.name in decided:
                mask[group.offset : group.offset + group.size] = decided[group.name].to(mask.device)
