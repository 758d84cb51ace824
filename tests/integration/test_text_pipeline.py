"""Text from data to ONNX: a GPT by a configuration, and an encoder with a mask from Python, each in whole runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from search.compress import compress
from search.config import load
from search.export.saved_network import load as load_network
from search.pipeline import run
from tests.contracts.nested_task import CLASSES, Texts, encoder
from tests.paths import CONFIGS, REPOSITORY

pytestmark = pytest.mark.slow

SHORT = [
    "task.model.arguments={length: 16, blocks: 1, width: 16, heads: 2}",
    "task.data.length=16",
    "task.data.search_size=32",
    "stages.train.epochs=1",
    "stages.train.batch_size=64",
    "stages.search.algorithm={name: genetic, population: 4, generations: 2, elite: 1}",
    "stages.retrain.epochs=1",
    "execution.threads_per_trial=1",
]


def test_a_gpt_is_searched_retrained_reported_and_exported(tmp_path: Path) -> None:
    texts = tmp_path / "data" / "text"
    texts.mkdir(parents=True)
    (texts / "train.txt").write_bytes((REPOSITORY / "LICENSE").read_bytes())
    (texts / "test.txt").write_bytes((REPOSITORY / "CHANGELOG.md").read_bytes()[:3000])
    path = next(path for path in CONFIGS if path.stem == "text_gpt_genetic")
    folder = tmp_path / "run"
    config = load(path, [*SHORT, f"task.data.root={tmp_path / 'data'}"])
    run(config, folder)
    report = json.loads((folder / "report.json").read_text())
    assert report["target_met"] is True
    for network in (report["reference"], report["result"], report["baselines"]["uniform"]):
        assert network["metrics"]["perplexity"] == pytest.approx(math.exp(network["loss"]), rel=1e-4)
        assert 0.0 < network["top1"] < 1.0
    assert report["metrics_described"]["perplexity"]["direction"] == "minimize"
    assert "perplexity" in (folder / "report.html").read_text()
    session = onnxruntime.InferenceSession(str(folder / "best" / "model.onnx"))
    assert session.get_inputs()[0].type == "tensor(int64)"
    ids = torch.randint(0, 256, (3, 16), generator=torch.Generator().manual_seed(0))
    model = load_network(folder).eval()
    with torch.no_grad():
        expected = model(ids).numpy()
    np.testing.assert_allclose(session.run(None, {"input": ids.numpy()})[0], expected, atol=1e-4)
    with torch.no_grad():
        shorter = model(ids[:, :5]).numpy()
    np.testing.assert_allclose(session.run(None, {"input": ids[:, :5].numpy()})[0], shorter, atol=1e-4)
    # The same run again goes on from what is there, and ends at once.
    run(config, folder)
    assert json.loads((folder / "report.json").read_text())["result"] == report["result"]


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def test_an_encoder_with_a_mask_and_nothing_but_a_loss_becomes_smaller(tmp_path: Path) -> None:
    train, search = (DataLoader(Texts(count, seed), batch_size=16) for seed, count in enumerate((512, 256)))
    model = encoder()
    for part in model.modules():
        part.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(4):
        for inputs, targets in train:
            optimizer.zero_grad()
            loss(model(**inputs), targets).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    stages = [
        {
            "search": {
                "space": "channel_mask",
                "algorithm": {"name": "random", "evaluations": 4},
                "evaluate": ["accuracy", "cost"],
                "objectives": {"loss": "minimize"},
                "target": {"macs": "<= 70%"},
            }
        },
        {"retrain": {"epochs": 1, "batch_size": 64, "optimizer": {"name": "adam", "lr": 1e-3}}},
        {"export": {"formats": ["onnx"]}},
    ]
    made = compress(model, train, search, target={}, folder=tmp_path / "mine", stages=stages, loss=loss, quiet=True)
    assert made.report["target_met"] is True
    assert made.report["result"]["top1"] is None
    assert made.report["result"]["loss"] < math.log(CLASSES)
    inputs, _ = next(iter(search))
    session = onnxruntime.InferenceSession(str(made.folder / "best" / "model.onnx"))
    with torch.no_grad():
        expected = made.model(**inputs).numpy()
    (answer,) = session.run(None, {name: entry.numpy() for name, entry in inputs.items()})
    np.testing.assert_allclose(answer, expected, atol=1e-4)
