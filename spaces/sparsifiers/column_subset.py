"""Column subset selection: which of some vectors span the others best, and what they leave of them."""

from __future__ import annotations

import torch
from torch import Tensor

RANK = 1e-10
"""Smallest eigenvalue, over the largest, of a direction that counts."""


def leverage_scores(gram: Tensor, number: int) -> Tensor:
    """Return the leverage score of every vector in the subspace of the ``number`` largest principal directions.

    The vectors with the largest scores span the others nearly best (Papailiopoulos, Kyrillidis, Boutsidis 2014, arXiv
    1404.1530), as in CHEX (arXiv 2203.15794, equation 4).

    Args:
        gram: Products of the vectors, float64 of shape ``(n, n)``.
        number: How many of them are to be kept.

    Returns:
        Scores from 0 to 1, of shape ``(n,)``; 0 for a vector of zeros.
    """
    values, vectors = torch.linalg.eigh(gram)
    counts = values > RANK * values[-1].clamp_min(torch.finfo(values.dtype).tiny)
    # Eigenvalues ascend.
    counts[: max(0, len(values) - number)] = False
    scores: Tensor = vectors[:, counts].square().sum(1)
    return scores


def residuals(gram: Tensor, kept: Tensor, others: Tensor) -> Tensor:
    """Return the squared norm of what the kept vectors do not span of each of some others (arXiv 2203.15794, equation 6).

    Args:
        gram: Products of the vectors, float64 of shape ``(n, n)``.
        kept: Places of the kept vectors.
        others: Places of the others.

    Returns:
        Of the shape of ``others``; all equal where the kept ones span every one of them.
    """
    across = gram[others][:, kept]
    spanned = (across @ torch.linalg.pinv(gram[kept][:, kept], rtol=RANK, hermitian=True) * across).sum(1)
    left = (gram[others, others] - spanned).clamp_min(0.0)
    return left if bool((left > RANK * gram.diagonal().max()).any()) else torch.ones_like(left)
