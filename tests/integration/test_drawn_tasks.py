"""Tasks beside classification by their shipped configurations, each in a short run: results, ONNX, and a kill on the way."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from evaluators.tasks.settings import build_task
from search.config import load
from search.config.document import to_yaml
from search.export.saved_network import load as load_network
from search.pipeline import run
from spaces.execution.batch import named_tensors
from spaces.execution.forward import call
from tests.integration.killed_runs import be_the_command, differences, outcome
from tests.integration.tiny_pipeline import finish, kill_when, start_call
from tests.paths import CONFIGS, REPOSITORY

pytestmark = pytest.mark.slow

SHORT = [
    "stages.train={epochs: 2, batch_size: 32, optimizer: {name: adamw, lr: 3.0e-3}}",
    "stages.search.algorithm={name: genetic, population: 4, generations: 3, elite: 1}",
    "stages.search.baselines=[]",
    "stages.retrain.epochs=1",
]
IMAGES = [*SHORT, "task.data.samples=256", "task.data.search_size=64", "task.data.test_samples=64"]
TEXT = [
    *SHORT,
    "task.model.arguments={length: 16, blocks: 1, width: 16, heads: 2}",
    "task.data.length=16",
    "task.data.search_size=64",
    "stages.export={formats: [onnx]}",
]
ENCODER = [
    *IMAGES,
    "task.model.arguments={vocabulary: 27, outputs: 6, blocks: 1, width: 16, heads: 2, length: 16}",
    "task.data.length=16",
]
METRICS = {
    "segmentation_unet_genetic": "miou",
    "regression_cnn_genetic": "r2",
    "labels_cnn_genetic": "f1",
    "pairs_cnn_genetic": "top1",
    "diffusion_unet_genetic": "r2",
    "text_gpt_genetic": "perplexity",
    "text_encoder_genetic": "top1",
}


@pytest.mark.parametrize("name", METRICS)
def test_a_run_ends_with_a_smaller_network_and_the_same_after_a_kill(name: str, tmp_path: Path) -> None:
    path = next(path for path in CONFIGS if path.stem == name)
    overrides = ENCODER if name == "text_encoder_genetic" else IMAGES
    if METRICS[name] == "perplexity":
        texts = tmp_path / "data" / "text"
        texts.mkdir(parents=True)
        (texts / "train.txt").write_bytes((REPOSITORY / "LICENSE").read_bytes())
        (texts / "test.txt").write_bytes((REPOSITORY / "CHANGELOG.md").read_bytes()[:3000])
        overrides = [*TEXT, f"task.data.root={tmp_path / 'data'}"]
    config = load(path, overrides)
    whole, killed = tmp_path / "whole", tmp_path / "killed" / config.name
    report = run(config, whole)
    for network in (report["reference"], report["result"]):
        found = {"top1": network["top1"], **network["metrics"]}[METRICS[name]]
        assert math.isfinite(found)
    assert report["target_met"] is True
    assert 0 < report["result"]["macs"] < report["reference"]["macs"]
    assert report["metrics_described"][METRICS[name]]["direction"] == config_direction(METRICS[name])

    inputs, _ = next(iter(build_task(config.task).batches("test", 3)))
    session = onnxruntime.InferenceSession(str(whole / "best" / "model.onnx"))
    feed = {place.name: entry.numpy() for place, (_, entry) in zip(session.get_inputs(), named_tensors(inputs), strict=True)}
    with torch.no_grad():
        expected = call(load_network(whole).eval(), inputs)
    np.testing.assert_allclose(session.run(None, feed)[0], expected.numpy(), atol=1e-4)

    written = tmp_path / "short.yaml"
    written.write_text(to_yaml(config.canonical()))
    process = start_call(be_the_command, written, killed.parent, tmp_path / "output")
    kill_when(process, (killed / "best").exists)
    finish(start_call(be_the_command, written, killed.parent, tmp_path / "output"))
    assert not differences(outcome(killed), outcome(whole))


def config_direction(metric: str) -> str:
    return "minimize" if metric == "perplexity" else "maximize"
