"""Order in which the channels of a unit are removed at the least loss, by optimal brain surgeon on what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HELD = 0.8
"""Share of the channels that are held that must be there: below it, what has left is dropped from all matrices."""


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
    """The weight of one reader while channels leave, kept at its best by the inverse of the moments.

    Both are held for the columns of the unit alone, in blocks of as many columns as the channel with the most has: what leaves
    changes nothing else. Columns that fill up a block have a weight of 0 and an inverse of their own.

    Args:
        reader: The layer.
    """

    def __init__(self, reader: Reader) -> None:
        channels, self._width = len(reader.columns), max(len(one) for one in reader.columns)
        taken = torch.cat(reader.columns)
        filled = torch.arange(self._width) < torch.tensor([len(one) for one in reader.columns])[:, None]
        places = filled.flatten().nonzero().flatten().to(taken.device)
        whole = _inverse(reader.moments)
        self._inverse = torch.eye(channels * self._width, dtype=whole.dtype, device=whole.device)
        self._inverse[places[:, None], places] = whole[taken[:, None], taken]
        self._weight = reader.weight.new_zeros(channels * self._width, len(reader.weight))
        self._weight[places] = reader.weight.T[taken]
        self._deviation = reader.deviation

    def losses(self) -> Tensor:
        """Return the share of the deviation that is lost with each channel that is held, of shape ``(channels,)``."""
        weight = self._weight.reshape(-1, self._width, self._weight.shape[1])
        blocks = self._inverse.reshape(len(weight), self._width, len(weight), self._width).diagonal(dim1=0, dim2=2)
        solved, _ = torch.linalg.solve_ex(blocks.permute(2, 0, 1), weight @ weight.transpose(1, 2))
        errors: Tensor = solved.diagonal(dim1=1, dim2=2).sum(1)
        return errors / self._deviation

    def remove(self, place: int) -> None:
        """Remove the channel at ``place`` of those held: the other columns make up for it."""
        gone = slice(place * self._width, (place + 1) * self._width)
        rows = self._inverse[gone].clone()
        told, _ = torch.linalg.solve_ex(rows[:, gone], rows)
        self._weight.addmm_(told.T, self._weight[gone].clone(), alpha=-1.0)
        self._inverse.addmm_(rows.T, told, alpha=-1.0)
        self._weight[gone] = 0.0
        self._inverse[gone], self._inverse[:, gone] = 0.0, 0.0
        self._inverse[gone, gone].fill_diagonal_(1.0)

    def hold(self, places: Tensor) -> None:
        """Hold on to the channels at ``places`` alone, the others having left."""
        columns = (places[:, None] * self._width + torch.arange(self._width, device=places.device)).flatten()
        self._weight = self._weight[columns]
        self._inverse = self._inverse[columns][:, columns]


def _inverse(moments: Tensor) -> Tensor:
    """Return the inverse of a symmetric matrix, by its Cholesky factor where it has one."""
    factor, failed = torch.linalg.cholesky_ex(moments)
    return torch.linalg.inv(moments) if bool(failed) else torch.cholesky_inverse(factor)


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
    held = torch.arange(size, device=readers[0].weight.device)
    here = torch.ones_like(held, dtype=torch.bool)
    losses = torch.zeros(size, dtype=torch.float64, device=held.device)
    total = 0.0
    for left in range(size, 0, -1):
        if left < HELD * len(held):
            for surgeon in surgeons:
                surgeon.hold(here.nonzero().flatten())
            held, here = held[here], torch.ones(left, dtype=torch.bool, device=held.device)
        costs = torch.nan_to_num(torch.stack([surgeon.losses() for surgeon in surgeons]).sum(0), nan=torch.inf)
        # Of two numbers that are not finite, that of a channel which is still there is the smaller one.
        place = int(torch.where(here, costs.clamp_max(torch.finfo(costs.dtype).max), torch.inf).argmin())
        total += max(0.0, float(costs[place]))
        losses[held[place]] = total
        here[place] = False
        for surgeon in surgeons:
            surgeon.remove(place)
    return losses
