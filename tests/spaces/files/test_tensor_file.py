from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from spaces.files.tensor_file import write_tensors


def test_shared_and_strided_tensors_are_written(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    write_tensors(tmp_path / "w.safetensors", {"a": base, "b": base.T, "c": base[1:]})
    found = load_file(tmp_path / "w.safetensors")
    assert torch.equal(found["b"], base.T)
    assert torch.equal(found["c"], base[1:])
