"""IDX files, the format of MNIST and Fashion-MNIST: bytes in an array, behind a header of its shape."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_BYTES = 0x08
"""Type code of unsigned bytes, the third byte of a file."""


def read_bytes(path: Path, dimensions: int) -> Tensor | None:
    """Return the array of an IDX file of unsigned bytes, uint8; None for another type, other dimensions or a damaged file.

    Args:
        path: The file (header: two zeros, type, number of dimensions, each dimension as a big-endian integer of 4 bytes).
        dimensions: Number of dimensions that the array must have.

    Raises:
        OSError: It can't be read.
    """
    content = path.read_bytes()
    begin = 4 * (1 + dimensions)
    if len(content) < begin or content[:4] != bytes([0, 0, _BYTES, dimensions]):
        return None
    shape = struct.unpack(f">{dimensions}I", content[4:begin])
    if len(content) - begin != int(np.prod(shape, dtype=np.int64)):
        return None
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=begin).reshape(shape).copy())
