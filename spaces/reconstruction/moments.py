"""Moments of a layer's inputs and of the residuals of its outputs, and the least-squares change of its weight."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

ENTRIES = 12_000_000
"""Most entries of the rows that are added at once."""

PIVOT = 256
"""Rows whose mean the sums are taken about."""


class Moments:
    """First and second moments of rows of inputs and of the residuals that belong to them, in float64.

    Args:
        groups: Groups of the layer.
        columns: Columns of each group.
        outputs: Output channels.
        centred: Take the second moments about the means.
        device: Device of the sums.
    """

    def __init__(self, groups: int, columns: int, outputs: int, centred: bool, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._centred = centred
        self._pivot: Tensor | None = None
        self._inputs = zeros(groups, columns)
        self._residuals = zeros(groups, outputs // groups)
        self._squares = zeros(groups, columns, columns)
        self._products = zeros(groups, columns, outputs // groups)
        self._errors = zeros(groups, outputs // groups)
        self.count = 0

    def add(self, rows: Tensor, residuals: Tensor) -> None:
        """Add rows of shape ``(groups, n, columns)`` with residuals of shape ``(n, outputs)``."""
        groups, count, columns = rows.shape
        if not count:
            return
        if self._pivot is None:
            # Sums about a pivot keep a small variance beside a large mean.
            self._pivot = rows[:, :PIVOT].mean(1, keepdim=True) if self._centred else rows.new_zeros(groups, 1, columns)
        rows = rows - self._pivot
        left = residuals.reshape(count, groups, -1).transpose(0, 1)
        self._inputs += rows.sum(1)
        self._residuals += left.sum(1)
        self._squares += rows.transpose(1, 2) @ rows
        self._products += rows.transpose(1, 2) @ left
        self._errors += left.square().sum(1)
        self.count += count

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Mean inputs, of shape ``(groups, columns)``, and mean residuals, ``(groups, outputs / groups)``; 0 if not centred."""
        if self._pivot is None or not self._centred:
            return torch.zeros_like(self._inputs), torch.zeros_like(self._residuals)
        return self._pivot[:, 0].double() + self._inputs / self.count, self._residuals / self.count

    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of squares of inputs, of products with residuals and of squared residuals, about the means.

        They are of shape ``(groups, columns, columns)``, ``(groups, columns, outputs / groups)`` and
        ``(groups, outputs / groups)``.
        """
        if not self._centred or not self.count:
            return self._squares.clone(), self._products.clone(), self._errors.clone()
        inputs, residuals = self._inputs, self._residuals / self.count
        squares = torch.baddbmm(self._squares, inputs[:, :, None], (inputs / self.count)[:, None, :], alpha=-1.0)
        products = self._products - inputs[:, :, None] * residuals[:, None, :]
        return squares, products, (self._errors - self.count * residuals.square()).clamp_min(0.0)


def least_squares(found: Sequence[Moments], damping: float) -> tuple[Tensor, float, float]:
    """Return the change of a weight that leaves the smallest residuals, and the squared residuals before and after it.

    It minimizes ``|R - X D|^2 / n + ridge |D|^2`` with a ridge of ``damping`` times the mean diagonal of ``X^T X / n``, ten
    times as large for as long as the matrix has no Cholesky factor. No output is changed whose residuals would grow.

    Args:
        found: Moments of all layers that have the weight.
        damping: Ridge as a share of the mean diagonal.

    Returns:
        The change, float64 of shape ``(groups, outputs / groups, columns)``, and the sums over all outputs.
    """
    count = max(1, sum(one.count for one in found))
    parts = zip(*(one.sums() for one in found), strict=True)
    squares, products, errors = (reduce(torch.add, part).div_(count) for part in parts)
    change = _ridge(squares, products, damping)
    after = errors - 2.0 * (change * products).sum(1) + (change * (squares @ change)).sum(1)
    better = torch.isfinite(after) & (after <= errors)
    change = torch.where(better[:, None, :], change, torch.zeros_like(change))
    left = torch.where(better, after, errors).clamp_min(0.0)
    return change.transpose(1, 2), float(errors.sum()), float(left.sum())


def _ridge(squares: Tensor, products: Tensor, damping: float) -> Tensor:
    """Return ``(squares + ridge)^-1 products``, of shape ``(groups, columns, outputs / groups)``; 0 where that has no value."""
    mean = squares.diagonal(dim1=1, dim2=2).mean(1)
    ridge = torch.where(mean > 0, damping * mean, torch.ones_like(mean))
    # The largest matrix of all is damped in place.
    diagonal = squares.diagonal(dim1=1, dim2=2)
    plain, solution = diagonal.clone(), torch.zeros_like(products)
    for _ in range(16):
        diagonal.copy_(plain + ridge[:, None])
        factor, failed = torch.linalg.cholesky_ex(squares)
        if not bool(failed.any()):
            solution = torch.cholesky_solve(products, factor)
            break
        ridge = torch.where(failed > 0, ridge.clamp_min(1e-12) * 10.0, ridge)
    diagonal.copy_(plain)
    return solution
