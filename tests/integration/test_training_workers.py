"""A whole run on two training workers finds what one finds: sparse training, candidates, finalists and retraining."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.config import load
from search.pipeline import run
from tests.integration.tiny_pipeline import write_config
from tests.paths import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 200, train_size: 300}
execution: {executor: serial, device: cpu}
stages:
  - train: &training {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.1}, autocast: "off"}
  - sparse_training:
      <<: *training
      sparsifier: {name: gradient_cut, ratio: 0.3}
  - search:
      space: {name: pruning_schedule, macs: [0.5]}
      algorithm: {name: optuna, sampler: tpe, evaluations: 2}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 50%"}
      training: *training
      finalists: {count: 1, training: *training}
  - search:
      space: channel_mask
      algorithm: {name: random, evaluations: 4}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 40%"}
      finalists: {count: 2, steps: [5], training: *training}
  - retrain: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.05}, distillation: {features: {}}, autocast: "off"}
"""


def alone(folder: Path, workers: int) -> dict[str, Any]:
    """Return the report of a run whose training workers are on Ray, where they are several."""
    return run(load(write_config(folder, CONFIG), [f"execution.training_workers={workers}"]), folder / f"runs{workers}")


def launched(folder: Path, workers: int) -> dict[str, Any]:
    """Return the report of a run in so many processes of torchrun, which has started no Ray."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers), "-m", "search"]
    options = ["run", str(write_config(folder, CONFIG)), "execution.executor=ray", "--runs", str(folder / "launched")]
    (folder / "hidden").mkdir()
    (folder / "hidden" / "ray.py").write_text("raise ImportError('Ray is not to be imported')")
    paths = os.pathsep.join([str(folder / "hidden"), str(REPOSITORY)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "RAY_TMPDIR": str(folder / "ray")}
    done = subprocess.run([*words, *options], capture_output=True, text=True, env=environment, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4-retrain: done") <= 1
    log = (folder / "launched" / "tiny" / "log.txt").read_text()
    assert log.count("starting run tiny") == log.count("4-retrain: done") == 1
    assert not (folder / "ray").exists()
    found: dict[str, Any] = json.loads((folder / "launched" / "tiny" / "report.json").read_text())
    return found


@pytest.mark.parametrize("how", [launched, alone])
def test_two_workers_find_what_one_finds(tmp_path: Path, how: Callable[[Path, int], dict[str, Any]]) -> None:
    one, two = alone(tmp_path, 1), how(tmp_path, 2)
    assert two["result"]["macs"] == one["result"]["macs"]
    assert two["result"]["loss"] == pytest.approx(one["result"]["loss"], rel=0.02, abs=0.02)
    for first, second in zip(one["searches"], two["searches"], strict=True):
        assert [row["fingerprint"] for row in second["trials"]] == [row["fingerprint"] for row in first["trials"]]
        assert [row["state"] for row in second["trials"]] == ["complete"] * len(first["trials"])
        for row, other in zip(first["trials"], second["trials"], strict=True):
            assert other["metrics"]["top1"] == pytest.approx(row["metrics"]["top1"], abs=0.021)
    losses = [[epoch["loss"] for history in found["histories"] for epoch in history["epochs"]] for found in (one, two)]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
