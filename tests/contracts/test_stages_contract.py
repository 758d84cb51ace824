"""Every registered stage keeps the contract, by the kit that is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.config import load
from search.stages import STAGES
from search.stages.testing import check_stage, check_stage_settings
from spaces.registry import resolve
from tests.integration.stage_pieces import HEAD

TRAINED = {"epochs": 1, "batch_size": 50, "optimizer": {"name": "sgd", "lr": 0.05}}
SEARCH = {
    "algorithm": {"name": "random", "evaluations": 2},
    "evaluate": [{"accuracy": {"batch_norm_batches": 1}}, "cost"],
    "objectives": {"top1": "maximize"},
    "batch": 2,
}
BITS = {"name": "bit_width", "weight_bits": [4, 8], "activation_bits": [8]}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("train", TRAINED),
    ("retrain", TRAINED),
    ("sparse_training", {**TRAINED, "sparsifier": {"name": "scaling_factor", "strength": 1e-3}}),
    ("sparse_training", {**TRAINED, "sparsifier": {"name": "gradient_cut", "macs": 0.7}}),
    ("search", {**SEARCH, "space": "channel_mask"}),
    ("search", {**SEARCH, "space": BITS}),
    ("search", {**SEARCH, "space": "channel_mask", "reconstruct": {"images": 64}}),
    ("reconstruct", {"images": 64}),
    ("fuse", {}),
    ("export", {"formats": ["onnx"]}),
]


@pytest.mark.parametrize("name", STAGES)
def test_its_settings_keep_the_contract(name: str) -> None:
    check_stage_settings(resolve(STAGES[name]))
    assert name in [case for case, _ in CASES]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_it_keeps_the_contract(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(f"{HEAD}  - train: {{epochs: 1}}\n")
    check_stage(resolve(STAGES[name]), options, load(tmp_path / "tiny.yaml").build_task(), tmp_path)
