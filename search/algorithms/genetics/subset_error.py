"""Predict the difference between full score and subset score of a candidate from similar candidates."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WINDOW = 128
_REACHES = (0.03, 0.1, 0.3)
_NUGGETS = (0.05, 0.3)

Array = NDArray[np.float64]


class SubsetError:
    """Gaussian process over keep-masks for the difference full score - subset score (ours).

    All candidates are measured on the same subset, so that its bias is their common mean; and candidates with mostly the
    same channels fail on mostly the same samples, so that similar candidates have similar differences. The covariance
    falls exponentially with the share of channels that differ. Its length scale and nugget, or no covariance at all, are
    chosen by leave-one-out likelihood (Rasmussen and Williams 2006, section 5.4.2), which also gives the deviations.
    """

    def __init__(self) -> None:
        """Start without observations."""
        self._bits: deque[NDArray[np.bool_]] = deque(maxlen=_WINDOW)
        self._differences: deque[float] = deque(maxlen=_WINDOW)

    def __len__(self) -> int:
        """Return the number of observations, at most 128."""
        return len(self._differences)

    def observe(self, bits: NDArray[np.bool_], difference: float) -> None:
        """Record the keep-masks of a candidate, concatenated to shape ``(channels,)``, and its difference."""
        self._bits.append(bits)
        self._differences.append(difference)

    def predict(self, bits: Sequence[NDArray[np.bool_]]) -> tuple[Array, Array]:
        """Predict differences of candidates: mean and standard deviation, both of shape ``(candidates,)``."""
        known, values = np.array(self._bits), np.array(self._differences)
        mean = values.mean()
        between = _distances(known, known)
        fits = [_Fit(np.eye(len(values)), values - mean)]
        reaches = [0.0]
        for reach in _REACHES:
            for nugget in _NUGGETS:
                fits.append(_Fit(np.exp(-between / reach) + nugget * np.eye(len(values)), values - mean))
                reaches.append(reach)
        chosen = min(range(len(fits)), key=lambda index: round(fits[index].surprise, 6))
        fit, reach = fits[chosen], reaches[chosen]
        shape = (len(bits), len(values))
        near = np.exp(-_distances(np.array(bits), known) / reach) if reach else np.zeros(shape)
        explained = np.einsum("ij,jk,ik->i", near, fit.inverse, near)
        variance = fit.scale * np.maximum(fit.own - explained, 1e-6) * (1.0 + 1.0 / len(values))
        return mean + near @ fit.weights, np.sqrt(variance)


class _Fit:
    """A covariance matrix up to its scale, with leave-one-out residuals."""

    def __init__(self, covariance: Array, centred: Array) -> None:
        self.own = float(covariance[0, 0])
        self.inverse: Array = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        self.weights: Array = self.inverse @ centred
        precision = np.diag(self.inverse)
        residuals = self.weights / precision
        self.scale = float(np.mean(residuals**2 * precision)) * len(centred) / (len(centred) - 1)
        self.surprise = float(len(centred) * np.log(self.scale + 1e-30) - np.log(precision).sum())


def _distances(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Array:
    """Return the share of channels in which candidates differ, shape ``(first, second)``."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    differing = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - 2.0 * a @ b.T
    return np.asarray(differing / first.shape[1])
