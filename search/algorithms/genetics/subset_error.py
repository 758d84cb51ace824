"""Predicts by how much a score on a subset is off, from candidates that are alike."""

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
    """Difference full - subset score as a Gaussian process over keep-masks (ours).

    All candidates see the same subset, so that what the subset itself is off by is their common mean; and candidates
    that keep mostly the same channels err on mostly the same images, so that a child's difference is foretold by its
    relatives'. Covariance falls exponentially with the share of channels that differ. Its reach and nugget, or that
    there is none, are chosen by leave-one-out likelihood (Rasmussen and Williams 2006, section 5.4.2), and so are the
    reported deviations.
    """

    def __init__(self) -> None:
        self._bits: deque[NDArray[np.bool_]] = deque(maxlen=_WINDOW)
        self._differences: deque[float] = deque(maxlen=_WINDOW)

    def __len__(self) -> int:
        return len(self._differences)

    def observe(self, bits: NDArray[np.bool_], difference: float) -> None:
        """Take in a candidate's bits, shape ``(channels,)``, and its difference."""
        self._bits.append(bits)
        self._differences.append(difference)

    def predict(self, bits: Sequence[NDArray[np.bool_]]) -> tuple[Array, Array]:
        """Return expected difference and standard deviation of candidates, both of shape ``(candidates,)``."""
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
