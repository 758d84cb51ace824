"""A search over depth from configuration to loaded network: the run folder knows which branches are gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from search.config import load
from search.export import load as load_network
from search.pipeline.pipeline import run
from tests.integration.tiny_pipeline import write_config

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.resnet20, arguments: {in_channels: 1, width: 4}}
  data: {name: digits, search_size: 60, train_size: 120}
stages:
  - train: {epochs: 1, batch_size: 40, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: {name: depth, max_removed: 3}
      algorithm: {name: genetic, population: 4, generations: 2}
      evaluate: [{divergence: {measure: auto, split: train}}, cost]
      objectives: {divergence: minimize}
      target: {macs: "<= 80%"}
      baselines: [global_magnitude, greedy_divergence]
      reconstruct: false
  - retrain: {epochs: 1, batch_size: 40, optimizer: {name: sgd, lr: 0.05}}
"""


@pytest.mark.slow
def test_branches_leave_a_run_and_its_loaded_network(tmp_path: Path) -> None:
    run(load(write_config(tmp_path, CONFIG)), tmp_path / "runs" / "tiny")
    folder = tmp_path / "runs" / "tiny"
    report = json.loads((folder / "report.json").read_text())
    gone = [row["name"] for row in report["depth"] if not row["kept"]]
    assert 2 <= len(gone) <= 3
    assert report["equivalence_max_abs_error"] <= 1e-6
    assert report["target_met"]
    assert set(report["baselines"]) == {"global_magnitude", "greedy_divergence"}
    assert "branches or blocks are gone" in (folder / "report.html").read_text()
    network = load_network(folder / "best")
    left = {".".join(name.split(".")[:2]) for name in network.state_dict()}
    assert not left & set(gone)
    assert report["result"]["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
