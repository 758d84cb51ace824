"""Masking of whole groups: rows of weights are set aside for a step and restored after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from spaces.sparsifiers.masking import MaskedTensor, Masking


@dataclass(frozen=True)
class _Rows:
    """The rows of a weight along one dimension.

    Attributes:
        weight: The tensor.
        dim: The dimension.
        lane: Which list of groups they belong to.
        drawn: Whether they sit out at random; else they only go with their group.
    """

    weight: nn.Parameter
    dim: int
    lane: int
    drawn: bool


@dataclass
class _Aside:
    """Rows that are out of a step: which, what they held, and what the weight's moments held there."""

    rows: _Rows
    out: Tensor
    content: Tensor
    moments: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class GroupMasking(Masking):
    """Draws once per group, where the groups of a weight lie along single dimensions of it.

    Only the rows that are out of a step are moved, which takes a fraction of the time of masks over all weights.

    Args:
        tensors: What is masked.
    """

    def __init__(self, tensors: Sequence[MaskedTensor]) -> None:
        super().__init__(tensors)
        self._lanes: list[Tensor] = []
        self._rows: list[_Rows] = []
        known: dict[bytes, int] = {}
        for one in tensors:
            for tie in one.ties:
                groups = tie.groups.flatten()
                lane = known.setdefault(groups.cpu().numpy().tobytes(), len(known))
                if lane == len(self._lanes):
                    self._lanes.append(groups)
                self._rows.append(_Rows(one.tensor, int(np.argmax(tie.groups.shape)), lane, tie.drawn))
        self._gone = [groups[:0] for groups in self._lanes]
        self._open: list[_Rows] = []
        self._closed: list[_Rows] = []
        self._aside: list[_Aside] = []

    @torch.no_grad()
    def set(self, p: np.ndarray) -> None:
        """Set the keep-probabilities, float64 of shape ``(groups,)``; groups at 0 are zeroed with their moments."""
        self._take(p)
        gone = [(self._p[groups] == 0.0).nonzero().flatten() for groups in self._lanes]
        touched = [bool((self._p[groups] < 1.0).any()) for groups in self._lanes]
        news = [len(now) > len(before) for now, before in zip(gone, self._gone, strict=True)]
        self._gone = gone
        self._open = [rows for rows in self._rows if rows.drawn and touched[rows.lane]]
        self._closed = [rows for rows in self._rows if not rows.drawn and len(gone[rows.lane])]
        for rows in self._rows:
            if news[rows.lane]:
                self._empty(rows)

    @torch.no_grad()
    def apply(self, generator: torch.Generator) -> None:
        """Draw the masks of a step and set masked weights to 0."""
        self._aside = []
        if not self._open:
            return
        absent = self._present(generator) == 0.0
        out = {lane: absent[self._lanes[lane]].nonzero().flatten() for lane in {rows.lane for rows in self._open}}
        for rows in self._open:
            places = out[rows.lane]
            if len(places):
                self._aside.append(_Aside(rows, places, rows.weight.index_select(rows.dim, places)))
                rows.weight.index_fill_(rows.dim, places, 0.0)

    @torch.no_grad()
    def hold_moments(self) -> None:
        """Remember the moments of masked weights, before the optimizer's step."""
        for one in self._aside:
            moments = self._moments_of(one.rows.weight)
            one.moments = [(moment, moment.index_select(one.rows.dim, one.out)) for moment in moments]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore masked weights and their moments to their state before the step."""
        for one in self._aside:
            one.rows.weight.index_copy_(one.rows.dim, one.out, one.content)
            for moment, content in one.moments:
                moment.index_copy_(one.rows.dim, one.out, content)
            if not one.moments:
                # Moments that the step has made begin with what took part in it.
                for moment in self._moments_of(one.rows.weight):
                    moment.index_fill_(one.rows.dim, one.out, 0.0)
        for rows in self._closed:
            self._empty(rows)

    def _empty(self, rows: _Rows) -> None:
        """Set to 0 what belongs to groups that are gone."""
        for tensor in (rows.weight, *self._moments_of(rows.weight)):
            tensor.index_fill_(rows.dim, self._gone[rows.lane], 0.0)
