"""A genetic run that retrains on two Ray nodes, two workers on each, and loses one of them: it ends as one left alone does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluators.training.checkpoint import FileCheckpoint
from tests.integration.tiny_pipeline import read_report, write_config
from tests.paths import REPOSITORY
from tests.processes import processes
from tests.ray_nodes import SECOND, RayNodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 200, train_size: 400}
execution: {device: cpu, training_timeout: 60}
stages:
  - search:
      space: channel_mask
      algorithm: {name: genetic, population: 6, generations: 2}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 60%"}
      baselines: [uniform]
      batch: 3
  - retrain: {epochs: 30, batch_size: 40, optimizer: {name: sgd, lr: 0.05}, autocast: "off", keep_epoch: last}
"""


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    running = RayNodes(cpus=2)
    yield running
    running.close()


def start(config: Path, runs: Path, environment: dict[str, str], *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "search", "run", str(config), *overrides, "--runs", str(runs)]
    paths = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env={**environment, **paths}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_retraining_outlives_a_node(tmp_path: Path, nodes: RayNodes) -> None:
    config = write_config(tmp_path, CONFIG)
    alone = start(config, tmp_path / "alone", dict(os.environ))
    output, _ = alone.communicate(timeout=600)
    assert alone.returncode == 0, output
    on_ray = ("execution.executor=ray", "execution.address=auto", "execution.training_workers=4")
    process = start(config, tmp_path / "nodes", nodes.environment, *on_ray)
    deadline, folder = time.monotonic() + 600, tmp_path / "nodes" / "tiny"

    def trained() -> bool:
        found = [FileCheckpoint(path).load() for path in folder.glob("checkpoints/1-retrain/result/*.safetensors")]
        return any(one is not None and len(one[1].get("epochs", ())) >= 2 for one in found)

    while not trained():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, (folder / "log.txt").read_text()
        time.sleep(0.05)
    assert len(processes("ray::TrainingRank", nodes.pid(SECOND))) == 2
    nodes.lose_second()
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    log = (folder / "log.txt").read_text()
    assert "all training workers start again from the last epoch" in log
    assert "the cluster is 1 node with 2 CPUs now: training goes on with 2 workers" in log
    expected, found = read_report(tmp_path / "alone" / "tiny"), read_report(folder)
    assert [row["fingerprint"] for row in found["searches"][0]["trials"]] == [
        row["fingerprint"] for row in expected["searches"][0]["trials"]
    ]
    assert found["result"]["macs"] == expected["result"]["macs"]
    for first, second in zip(expected["histories"], found["histories"], strict=True):
        assert [epoch["epoch"] for epoch in second["epochs"]] == list(range(1, 31))
        losses = [[epoch["loss"] for epoch in history["epochs"]] for history in (first, second)]
        assert losses[1] == pytest.approx(losses[0], rel=0.02, abs=0.01)
    assert found["result"]["loss"] == pytest.approx(expected["result"]["loss"], rel=0.05, abs=0.02)
