"""Calibration: choose scale and zero point of a quantizer from samples of its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from spaces.quantization.format import Format, QParams

Method = Literal["mse", "percentile"]

SAMPLES = 32768
"""Number of values kept per activation, evenly spread over all batches."""

_COARSE = 80
_FINE = 16


@dataclass(frozen=True)
class Calibration:
    """Method that chooses the quantization parameters.

    Attributes:
        method: ``mse``: least mean squared error; ``percentile``: the range holds the given percentage of the values.
        percentile: Percentage of the values inside the range, from 0 to 100.
    """

    method: Method = "mse"
    percentile: float = 99.99

    def weight_qparams(self, weight: Tensor, axis: int, bits: Iterable[int]) -> dict[int, QParams]:
        """Return symmetric per-channel parameters of a weight, by number of bits; for one bit the mean magnitude is the scale.

        Args:
            weight: Float weight of any shape.
            axis: Channel dimension; scales have shape ``(weight.shape[axis],)``.
            bits: Numbers of bits to calibrate for.
        """
        rows = weight.detach().float().movedim(axis, 0).reshape(weight.shape[axis], -1)
        zero_point = torch.zeros(len(rows), dtype=torch.int32, device=weight.device)
        return {count: QParams(self._weight_scale(rows, count), zero_point) for count in bits}

    def _weight_scale(self, rows: Tensor, bits: int) -> Tensor:
        target = Format(bits, signed=True)
        low, high = target.low, target.high
        size = rows.abs()
        if target.binary:
            return _above_zero(size.mean(1))
        if self.method == "percentile":
            return _above_zero(torch.quantile(size, self.percentile / 100, dim=1) / high)
        base = _above_zero(size.amax(1) / -low)

        def error(factor: Tensor) -> Tensor:
            scale = (base * factor)[:, None]
            return ((rows / scale).round().clamp_(low, high) * scale - rows).square_().sum(1)

        return base * _least(error, 0.1, -low / high * 1.05, len(rows), rows.device)

    def activation_qparams(self, values: ActivationSample, bits: Iterable[int]) -> dict[int, QParams]:
        """Return affine per-tensor parameters of an activation, by number of bits; zero point 0 without negative values."""
        return {count: self._activation_qparams(values, count) for count in bits}

    def _activation_qparams(self, observed: ActivationSample, bits: int) -> QParams:
        values = observed.values()
        high = Format(bits, signed=False).high
        least, most = min(observed.least, 0.0), max(observed.most, 0.0)
        if self.method == "percentile":
            share = self.percentile / 100
            lowest, highest = torch.quantile(values, torch.tensor([1 - share, share], device=values.device)).tolist()
            return affine_qparams(max(least, min(lowest, 0.0)), min(most, max(highest, 0.0)), high, values.device)

        def error(factor: Tensor) -> Tensor:
            found = affine_qparams(least * float(factor), most * float(factor), high, values.device)
            integers = (values / found.scale).round_().add_(found.zero_point).clamp_(0, high)
            return (integers.sub_(found.zero_point).mul_(found.scale).sub_(values)).square_().mean().reshape(1)

        factor = float(_least(error, 0.02, 1.0, 1, values.device))
        return affine_qparams(least * factor, most * factor, high, values.device)


@dataclass
class ActivationSample:
    """Range and a subsample of the values of one activation, collected over batches.

    Attributes:
        least: Smallest value seen, at most 0.
        most: Largest value seen, at least 0.
    """

    least: float = 0.0
    most: float = 0.0
    _parts: list[Tensor] = field(default_factory=list)

    def see(self, values: Tensor, expected_batches: int = 16) -> None:
        """Record a batch of values of any shape.

        Args:
            values: The batch.
            expected_batches: Number of batches among which :data:`SAMPLES` is divided.
        """
        flat = values.detach().reshape(-1)
        self.least, self.most = min(self.least, float(flat.min())), max(self.most, float(flat.max()))
        # A prime stride meets every channel and place alike.
        wanted = max(1, flat.numel() * expected_batches // SAMPLES)
        self._parts.append(flat[:: _next_prime(wanted)].float())

    def values(self) -> Tensor:
        """Return the kept values, float32 of shape ``(count,)``."""
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        return self._parts[0]


def affine_qparams(least: float, most: float, high: int, device: torch.device) -> QParams:
    """Return the affine parameters that map ``least`` (at most 0) to integer 0 and ``most`` (at least 0) to ``high``."""
    scale = torch.tensor([max((most - least) / high, 1e-12)], dtype=torch.float32, device=device)
    zero_point = torch.round(-least / scale).clamp(0, high).to(torch.int32)
    return QParams(scale, zero_point)


def _above_zero(scale: Tensor) -> Tensor:
    """Return ``scale`` with zeros, of channels whose weights are all 0, replaced by 1."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _least(error: Callable[[Tensor], Tensor], low: float, high: float, rows: int, device: torch.device) -> Tensor:
    """Search [``low``, ``high``] for the factor of least error, shape ``(rows,)``, on a geometric grid and then a finer one."""
    ratio = (high / low) ** (1.0 / _COARSE)
    best, least = torch.full((rows,), high, device=device), torch.full((rows,), torch.inf, device=device)
    centre = torch.ones(rows, device=device)
    coarse = [low * ratio**index for index in range(_COARSE + 1)]
    for level in range(2):
        factors = coarse if level == 0 else [ratio ** ((index - _FINE) / _FINE) for index in range(2 * _FINE + 1)]
        for factor in factors:
            tried = centre * factor
            found = error(tried)
            better = found < least
            least, best = torch.where(better, found, least), torch.where(better, tried, best)
        centre = best.clone()
    return best


def _next_prime(number: int) -> int:
    while number > 3 and any(number % other == 0 for other in range(2, int(number**0.5) + 1)):
        number += 1
    return number
