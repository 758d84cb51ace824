"""Channels and bits in one search, trained once and exported: what comes out, and the same after kills."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evaluators.onnx.quantized import stored_integers
from evaluators.tasks.measure import measure
from search.config import load
from search.export import load as load_best
from search.pipeline.inspection import examine
from search.pipeline.rehearsal import rehearse
from spaces.errors import SecateursError
from spaces.quantization.layers import quantized_layers
from tests.integration.tiny_pipeline import finish, kill_when, read_report, start, timeless, write_config
from tests.paths import REPOSITORY

pytestmark = pytest.mark.slow

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 300, train_size: 500}
stages:
  - train: {epochs: 3, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: {name: joint, bits: {weight_bits: [2, 3, 4, 8], activation_bits: [4, 8]}, calibration_samples: 64}
      algorithm: {name: genetic, population: 6, generations: 3}
      evaluate: [{omega: {samples: 32, compare: false}}, accuracy, cost]
      objectives: {top1: maximize}
      target: {size_bytes: "<= 13%", bit_operations: "<= 1.5%"}
      baselines: [uniform]
      batch: 4
      finalists:
        count: 2
        training: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.01}, distillation: {}, clip_norm: 1.0}
  - retrain: {epochs: 3, batch_size: 50, optimizer: {name: sgd, lr: 0.01}, distillation: {}, clip_norm: 1.0}
  - export: {formats: [onnx]}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    finish(start(write_config(folder, CONFIG), folder / "run"))
    return folder / "run", read_report(folder / "run")


def test_every_target_is_met_by_the_file_that_is_delivered(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, report = whole
    tensors = load_file(folder / "best" / "weights.safetensors")
    for found in (report["result"], report["baselines"]["uniform"]):
        assert found["size_bytes"] <= 0.13 * report["reference"]["size_bytes"]
        assert found["bit_operations"] <= 0.015 * report["reference"]["bit_operations"]
    assert report["result"]["size_bytes"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert report["target_met"] is True
    assert report["result"]["macs"] < report["reference"]["macs"]


def test_the_report_has_channels_and_bits_as_they_are_in_the_network(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, report = whole
    model = load_best(folder)
    assert any(layer["kept"] < layer["channels"] for layer in report["layers"])
    kept = {layer["name"]: layer["kept"] for layer in report["layers"]}
    assert kept == {name: model.get_submodule(name).out_channels for name in kept}
    bits = {row["name"]: row for row in report["bits"]}
    for name, layer in quantized_layers(model).items():
        assert layer.stored is not None
        assert (layer.stored.bits, layer.stored.count) == (bits[name]["weight_bits"], bits[name]["weights"])
    assert sum(row["macs"] for row in bits.values()) == report["result"]["macs"]
    assert [entry["name"] for entry in report["frozen"]] == ["classifier"]
    page = (folder / "report.html").read_text()
    assert "Bits per layer" in page
    kinds = [entry["kind"] for entry in json.loads((folder / "best" / "architecture.json").read_text())["transformations"]]
    assert kinds == ["sequence", "pack_weights"]


def test_another_process_reads_it_back_and_the_onnx_file_answers_alike(whole: tuple[Path, dict[str, Any]]) -> None:
    import onnxruntime

    folder, report = whole
    task = load(folder / "config.yaml").build_task()
    inputs, _ = next(iter(task.batches("test", 64)))
    torch.save(inputs, folder / "inputs.pt")
    script = (
        "import sys, torch; from search.export import load; x = torch.load(sys.argv[2]); "
        "torch.save(load(sys.argv[1])(x).detach(), sys.argv[3])"
    )
    arguments = [str(folder), str(folder / "inputs.pt"), str(folder / "outputs.pt")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, cwd=REPOSITORY)
    model = load_best(folder)
    assert measure(model, task, "test")["top1"] == report["result"]["top1"]
    with torch.no_grad():
        expected = model(inputs)
    assert torch.equal(torch.load(folder / "outputs.pt"), expected)
    session = onnxruntime.InferenceSession(str(folder / "best" / "model.onnx"), providers=["CPUExecutionProvider"])
    answered = torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])
    assert float((answered.argmax(1) != expected.argmax(1)).float().mean()) < 0.05
    bits = {row["name"]: row["weight_bits"] for row in report["bits"]}
    integers = stored_integers(folder / "best" / "model.onnx")
    assert len(integers) == len(quantized_layers(model))
    for name, (_, low, high) in integers.items():
        (layer,) = [layer for layer in quantized_layers(model) if f"{layer}." in name]
        assert -(2 ** (bits[layer] - 1)) <= low < high < 2 ** (bits[layer] - 1)


def test_it_is_checked_and_inspected_with_both(tmp_path: Path) -> None:
    config = load(write_config(tmp_path, CONFIG))
    assert list(rehearse(config))
    blind = CONFIG.replace("objectives: {top1: maximize}", "objectives: {omega: minimize}")
    with pytest.raises(SecateursError, match="nothing of removed channels"):
        list(rehearse(load(write_config(tmp_path, blind))))
    found = examine(config)
    assert {"features.0", "features.8"} <= {row["name"] for row in found["groups"]}
    assert found["channels"] == sum(row["size"] for row in found["groups"])
    rows = {row["name"]: row["members"] for row in found["bits"]}
    assert rows["features.3"] == ["weight: 2/3/4/8 bits", "activation: 4/8 bits"]
    assert rows["features.7.add"] == ["activation: 4/8 bits"]


@pytest.mark.slow
def test_killed_in_the_search_and_among_finalists_it_ends_the_same(tmp_path: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    folder, report = whole
    config, again = write_config(tmp_path, CONFIG), tmp_path / "run"
    step = again / "checkpoints" / "1-search" / "result"
    journal = again / "study.journal"
    kill_when(start(config, again), lambda: journal.exists() and journal.read_text().count('"fingerprint"') > 7)
    kill_when(start(config, again), lambda: bool(list(step.glob("finalists/*.safetensors"))))
    finish(start(config, again))
    assert timeless(read_report(again)) == timeless(report)
    for name in ("weights.safetensors", "architecture.json"):
        assert (again / "best" / name).read_bytes() == (folder / "best" / name).read_bytes()


@pytest.mark.slow
def test_optuna_searches_it_on_workers(tmp_path: Path) -> None:
    changed = CONFIG.replace(
        "{name: genetic, population: 6, generations: 3}", "{name: optuna, sampler: nsga2, evaluations: 12}"
    )
    changed = changed.replace("objectives: {top1: maximize}", "objectives: {top1: maximize, size_bytes: minimize}")
    changed = changed.replace("baselines: [uniform]", "baselines: [random]")
    changed += "execution: {executor: ray, workers: 2}\n"
    finish(start(write_config(tmp_path, changed), tmp_path / "run"))
    report = read_report(tmp_path / "run")
    assert report["target_met"] is True
    assert len(report["searches"][0]["trials"]) == 12
    assert report["baselines"]["random"]["bit_operations"] <= 0.015 * report["reference"]["bit_operations"]
