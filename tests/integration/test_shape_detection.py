"""Detection from a configuration to ONNX, through kills: torchvision's SSDLite on drawn shapes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from evaluators.tasks.measure import measure
from examples.shape_detection import ShapeDetection
from search.config import load
from search.config.document import to_yaml
from search.export.saved_network import load as load_network
from search.pipeline import run
from search.report.page import render
from spaces.execution.losses import Supervised
from tests.integration.kill_harness import recorded
from tests.integration.killed_runs import be_the_command, differences, outcome
from tests.integration.tiny_pipeline import finish, kill_when, start_call
from tests.paths import REPOSITORY

pytestmark = pytest.mark.slow

SMALL = {"width": 4, "side": 32, "samples": 64}
SMALLER = (
    "task.arguments={width: 4, side: 32, samples: 64}",
    "stages.train.epochs=2",
    "stages.search.algorithm={name: genetic, population: 4, generations: 2, elite: 1, racing: {fidelities: [0.5]}}",
    "stages.search.evaluate.0.accuracy={batch_norm_batches: 2, batch_size: 16}",
    "stages.retrain.epochs=1",
)


def test_a_detector_becomes_smaller_and_the_same_after_kills_in_training_and_search(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    config = load(REPOSITORY / "configs" / "shape_detection.yaml", list(SMALLER))
    written, killed, output = tmp_path / "short.yaml", tmp_path / "killed" / config.name, tmp_path / "output"
    written.write_text(to_yaml(config.canonical()))

    def trained() -> bool:
        return (killed / "checkpoints" / "0-train" / "result" / "training.safetensors").exists()

    def searched() -> bool:
        return sum(map(len, recorded(killed).values())) >= 2

    for reached in (trained, searched):
        kill_when(start_call(be_the_command, written, killed.parent, output), reached)
        assert not (killed / "report.json").exists()
    finish(start_call(be_the_command, written, killed.parent, output))
    folder = tmp_path / "run"
    report = run(config, folder)
    assert not differences(outcome(killed), outcome(folder))
    assert report["target_met"] is True
    assert report["score"] == "map"
    for network in (report["reference"], report["result"], report["baselines"]["uniform"]):
        assert network["top1"] is None
        assert 0.0 <= network["metrics"]["map"] <= 1.0
        assert math.isfinite(network["loss"])
        assert network["standard_errors"]["map"] >= 0.0
    assert "mAP" in render(folder).read_text()
    assert run(config, folder)["result"] == report["result"]

    task, model = ShapeDetection(**SMALL), load_network(folder, ShapeDetection(**SMALL).build).eval()
    assert measure(model, task, "test")["map"] == pytest.approx(report["result"]["metrics"]["map"], abs=1e-6)
    session = onnxruntime.InferenceSession(str(folder / "best" / "model.onnx"))
    images, _ = next(iter(task.batches("search", 5)))
    with torch.no_grad():
        expected = task.exported(model, images)
    for found, wanted in zip(session.run(None, {"input": images.numpy()}), expected.values(), strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)
    assert json.loads((folder / "report.json").read_text())["result"]["macs"] < report["reference"]["macs"]


def test_losses_in_evaluation_mode_are_those_of_the_batch_and_change_nothing() -> None:
    task = ShapeDetection(**SMALL)
    model = task.build().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, targets = next(iter(task.batches("train", 4)))
    state = torch.get_rng_state()
    losses = [task.forward(model, Supervised(images, targets)) for _ in range(2)]
    assert set(losses[0]) == {"bbox_regression", "classification"}
    assert torch.equal(task.loss(losses[0], targets), task.loss(losses[1], targets))
    assert task.loss(losses[0], targets).item() > 0.0
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
