"""Options of the space of pruning ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from spaces.importance.criterion import CriterionName
from spaces.sparsifiers.channel_split import Scope
from spaces.sparsifiers.gradient_cut import GradientCutSettings


@dataclass(frozen=True)
class FilterRatioSettings:
    """Options of the space of ratios.

    Attributes:
        per: Unit with a ratio of its own: every ``layer``, every ``stage`` (layers whose names begin alike, or else of equal
            width), or the whole ``network``.
        method: ``one_shot`` removes the least important filters at once; ``gradient_cut`` trains every candidate so that
            they decay to zero (needs ``search.training``).
        importance: Criterion of importance.
        scope: Where the network has one ratio: ``layer`` ranks filters within their group, ``global`` over all groups.
        macs: Share of the network's MACs that every candidate is brought to, its ratios then saying how the layers share
            it (kept shares are proportional to 1 - ratio); None to take ratios as they are.
        levels: Number of steps between a ratio of 0 and 1.
        max_ratio: Largest share of a group's filters that may go.
        round_to: Kept filters of a group come in multiples of this (what the hardware likes), or are all kept.
        include: Name patterns of layers whose filters may go; empty for all.
        exclude: Name patterns of layers whose filters stay.
        compensate: With ``one_shot``, whether to correct the consuming layers by least squares, so that kept filters stand in
            for the removed ones.
        exponent: Weight of task relevance against the effect on the loss in ``relevance_loss``.
        smoothing: Share that importance keeps of what was seen before, at every step of ``gradient_cut``.
        ramp: Share of the steps of ``gradient_cut`` in which the number of cut filters rises.
        freeze: Share of the steps of ``gradient_cut`` after which no filter comes back.
        decay: Share of the steps of ``gradient_cut`` after which what was cut is zero.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    per: Literal["layer", "stage", "network"] = "layer"
    method: Literal["one_shot", "gradient_cut"] = "one_shot"
    importance: CriterionName = "relevance_loss"
    scope: Scope = "layer"
    macs: float | None = None
    levels: int = 20
    max_ratio: float = 0.95
    round_to: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    compensate: bool = True
    exponent: float = 1.0
    smoothing: float = GradientCutSettings.smoothing
    ramp: float = GradientCutSettings.ramp
    freeze: float = GradientCutSettings.freeze
    decay: float = GradientCutSettings.decay

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        if self.levels < 2:
            raise ValueError(f"levels: expected at least 2, got {self.levels}")
        if self.scope == "global" and (self.per != "network" or self.macs is not None):
            raise ValueError("scope: filters are ranked globally only where the network has one ratio, and macs is not set")
        if self.macs is not None and self.per == "network":
            raise ValueError("macs: with one ratio for the whole network there is nothing left to search; set per: layer")
        self.cut(0.0, {})

    def cut(self, ratio: float, ratios: dict[str, float]) -> GradientCutSettings:
        """Return the settings of gradient cut for a candidate: the network's one ratio, or that of every group by its name."""
        return GradientCutSettings(
            ratio=ratio,
            ratios=ratios,
            macs=self.macs,
            scope=self.scope,
            importance=self.importance,
            exponent=self.exponent,
            smoothing=self.smoothing,
            ramp=self.ramp,
            freeze=self.freeze,
            decay=self.decay,
            max_ratio=self.max_ratio,
            round_to=self.round_to,
        )
