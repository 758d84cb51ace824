"""A task that is not classification, through a whole pipeline: the example that the README points to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from search.config import load
from search.export import load as load_network
from search.pipeline import run
from tests.paths import REPOSITORY

SMALLER = (
    "task.arguments={width: 4, side: 16, samples: 128}",
    "stages.train.epochs=1",
    "stages.search.algorithm={name: genetic, population: 4, generations: 1}",
    "stages.retrain.epochs=1",
)


@pytest.mark.slow
def test_shapes_are_found_by_a_smaller_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY), *sys.path])
    folder = tmp_path / "shapes"
    report = run(load(REPOSITORY / "configs" / "shape_segmentation.yaml", list(SMALLER)), folder)
    reference, result = report["reference"], report["result"]
    assert result["top1"] is None
    assert 0.0 <= result["metrics"]["iou"] <= 1.0
    assert result["macs"] <= 0.35 * reference["macs"]
    assert report["target_met"]
    assert {entry["name"] for entry in report["frozen"]} == {"head"}
    network = load_network(folder, trust=["examples"])
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert network(images).shape == (2, 3, 16, 16)
    assert (folder / "best" / "model.onnx").is_file()
    assert "iou" in (folder / "report.html").read_text()
