"""Rounding in numpy against PyTorch's, and limits against its."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spaces.fusion.float_format import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FloatFormat
from spaces.fusion.nodes import float_format

FORMATS = {torch.float16: FLOAT16, torch.bfloat16: BFLOAT16, torch.float32: FLOAT32, torch.float64: FLOAT64}


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_format_has_the_limits_of_the_dtype_and_rounds_as_pytorch_does(dtype: torch.dtype) -> None:
    known: FloatFormat = FORMATS[dtype]
    assert float_format(dtype) == known
    rng = np.random.default_rng(0)
    spread = rng.standard_normal(20000) * 10.0 ** rng.uniform(-45, 45, 20000)
    edges = np.array(
        [0.0, known.tiny, known.tiny / 3, known.tiny * known.eps, known.largest, 1 + known.eps / 2, 1 + known.eps * 1.5]
    )
    with np.errstate(over="ignore"):
        near = np.outer(edges, [1.0, 1 + 1e-6, 1 - 1e-6, 1 + known.eps / 2, 1 + known.eps]).ravel()
        values = np.concatenate([spread, near, -near, [np.inf, -np.inf]])
        expected = torch.from_numpy(values).to(dtype).double().numpy()
    np.testing.assert_array_equal(known.rounded(values), expected)


def test_what_is_no_number_stays_so() -> None:
    assert np.isnan(BFLOAT16.rounded(np.array([np.nan]))).all()
