"""Detection from a configuration to ONNX, through an interruption: torchvision's SSDLite on drawn shapes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from evaluators.meters import ImportedMeter
from evaluators.tasks.measure import measure
from examples.shape_detection import ShapeDetection
from search.config import load
from search.export.saved_network import load as load_network
from search.pipeline import run
from search.report.page import render
from spaces.execution.losses import Supervised
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


def test_a_detector_becomes_smaller_through_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocotools")
    folder, config = tmp_path / "run", load(REPOSITORY / "configs" / "shape_detection.yaml", list(SMALLER))
    compute, calls = ImportedMeter.compute, iter(range(5))

    def interrupted(meter: ImportedMeter) -> float:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return compute(meter)

    with monkeypatch.context() as patch:
        patch.setattr(ImportedMeter, "compute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config, folder)
    report = run(config, folder)
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
