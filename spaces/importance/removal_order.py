"""Order in which the channels of a unit are removed at the least loss, by optimal brain surgeon on what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels of a unit.

    Attributes:
        weight: Its weight as a matrix, float64 of shape ``(outputs, columns)``.
        moments: Damped second moments of its inputs about their means, float64 of shape ``(columns, columns)``.
        columns: Columns of every channel of the unit, int64, a tensor per channel.
        deviation: Squared deviation of its outputs from their means, summed over outputs; above 0.
    """

    weight: Tensor
    moments: Tensor
    columns: tuple[Tensor, ...]
    deviation: float


class _Surgeon:
    """The weight of one reader while channels leave, kept at its best by the inverse of the moments."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._weight = reader.weight.clone()
        self._inverse = torch.linalg.inv(reader.moments)
        sizes = {len(one) for one in reader.columns}
        self._even = torch.stack(reader.columns) if len(sizes) == 1 else None

    def losses(self, left: Tensor) -> Tensor:
        """Return the share of the deviation that is lost with each channel of ``left``, of shape ``(n,)``."""
        if self._even is not None:
            found = self._losses(self._even[left])
        else:
            columns = self._reader.columns
            found = torch.cat([self._losses(columns[place][None]) for place in left.tolist()])
        return found / self._reader.deviation

    def _losses(self, columns: Tensor) -> Tensor:
        """Return the squared errors of removing each row of ``columns``, of shape ``(n, k)``."""
        if columns.shape[1] == 0:
            return self._weight.new_zeros(len(columns))
        blocks = self._inverse[columns[:, :, None], columns[:, None, :]]
        weights = self._weight[:, columns].permute(1, 2, 0)
        errors: Tensor = (weights * torch.linalg.solve(blocks, weights)).sum((1, 2))
        return errors

    def remove(self, channel: int) -> None:
        """Remove a channel: the other columns make up for it."""
        gone = self._reader.columns[channel]
        block = self._inverse[gone][:, gone]
        told = torch.linalg.solve(block, self._inverse[gone]) if len(gone) else self._inverse[gone]
        self._weight -= self._weight[:, gone] @ told
        self._inverse -= self._inverse[:, gone] @ told
        self._weight[:, gone] = 0.0


def removal_losses(readers: Sequence[Reader], size: int) -> Tensor:
    """Return the loss at which every channel of a unit leaves, float64 of shape ``(size,)``: ascending, the order of removal.

    In each step that channel leaves whose removal costs its readers least, their other weights being changed for the best:
    ``w_S (H^-1)_SS^-1 w_S^T`` for the columns S of a channel and the second moments H (Hassibi, Stork, NeurIPS 1992; columns
    that leave together as in Kurtic et al., EMNLP 2022, arXiv 2203.07259), over the squared deviation of a reader's outputs,
    summed over readers (ours). The loss of a channel is that of all channels up to it.

    Args:
        readers: The layers that read the unit, at least one.
        size: Number of channels.
    """
    surgeons = [_Surgeon(reader) for reader in readers]
    left = torch.arange(size, device=readers[0].weight.device)
    losses = torch.zeros(size, dtype=torch.float64, device=left.device)
    total = 0.0
    while len(left):
        costs = torch.stack([surgeon.losses(left) for surgeon in surgeons]).sum(0)
        place = int(torch.nan_to_num(costs, nan=torch.inf).argmin())
        channel = int(left[place])
        total += max(0.0, float(torch.nan_to_num(costs[place])))
        losses[channel] = total
        for surgeon in surgeons:
            surgeon.remove(channel)
        left = left[left != channel]
    return losses
