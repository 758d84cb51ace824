"""A sparse training that removes: the smaller network leaves the stage, is delivered and reported, and survives a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from search.config import load
from search.export import load as load_best
from search.pipeline import run
from search.stages.removal import output_change
from spaces.errors import EquivalenceError
from spaces.networks import digits_cnn
from tests.integration.tiny_pipeline import timeless
from tests.variants import few

CONFIG = """\
name: cut
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 300, train_size: 400}
stages:
  - train: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - sparse_training:
      sparsifier: {name: gradient_cut, macs: 0.4}
      epochs: 3
      batch_size: 50
      optimizer: {name: sgd, lr: 0.05}
      early_stop: {patience: 2}
  - retrain: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
"""


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("sparsifier", few(["gradient_cut", "channel_exploration"]))
def test_what_a_sparsifier_zeroed_is_removed_delivered_and_reported(tmp_path: Path, sparsifier: str) -> None:
    path = tmp_path / "cut.yaml"
    path.write_text(CONFIG.replace("gradient_cut", sparsifier))
    report = run(load(path), tmp_path / "cut")
    assert report["result"]["macs"] <= 0.4 * report["reference"]["macs"]
    assert sum(layer["kept"] for layer in report["layers"]) < sum(layer["channels"] for layer in report["layers"])
    assert report["equivalence_max_abs_error"] < 1e-6
    small = load_best(tmp_path / "cut")
    assert sum(p.numel() for p in small.parameters()) == report["result"]["parameters"]
    again = run(load(path), tmp_path / "cut")
    assert timeless(again) == timeless(report)


def test_a_change_of_the_output_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.yaml"
    path.write_text(CONFIG)
    task = load(path).build_task()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = digits_cnn(width=4), digits_cnn(width=4)
    assert output_change(first, first, task) == 0.0
    with pytest.raises(EquivalenceError, match="should change outputs by less than"):
        output_change(first, second, task)
