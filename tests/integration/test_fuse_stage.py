"""The stage `fuse` at the end of a pipeline: in best/, in the exports, in the report, and after a resume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from evaluators.tasks.measure import measure
from search.config import load
from search.export import load as load_best
from search.pipeline import run
from tests.integration.tiny_pipeline import read_report, write_config
from tests.paths import REPOSITORY
from tests.variants import few

pytestmark = pytest.mark.usefixtures("no_pictures_in_module")

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: tests.integration.connected_networks.FACTORY}
  data: {name: digits, search_size: 300, train_size: 300}
stages:
  - train: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: channel_mask
      algorithm: {name: random, evaluations: 4}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 70%"}
      baselines: [uniform]
  - retrain: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
  - fuse: {}
"""


@pytest.fixture(scope="module", params=few(["modules", "functions"]))
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Return a finished run's folder, its report, and which network it was."""
    folder = tmp_path_factory.mktemp("runs")
    text = CONFIG.replace("FACTORY", request.param) + "  - export: {formats: [onnx, torch_export]}\n"
    report = run(load(write_config(folder, text)), folder / "tiny", None)
    return folder / "tiny", report, request.param


def test_the_report_says_what_was_merged(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, report, kind = finished
    (entry,) = report["activations"]
    assert entry["stage"] == "3-fuse"
    chains = [merge["nodes"] for merge in entry["merges"]]
    second = ["second.2", "second.3", *(["leaky_relu"] if kind == "functions" else [])]
    assert chains == [["first.2", "first.3"], second, ["third.2", "third.3"]]
    assert entry["max_abs_error"] < 1e-4
    page = (folder / "report.html").read_text()
    assert "Merged activations" in page
    assert "Clip 0 to 4" in page
    assert "3-fuse: " in (folder / "log.txt").read_text()
    assert read_report(folder) == report
    assert [stage["name"] for stage in report["stages"]][-2:] == ["fuse", "export"]
    assert report["result"]["top1"] is not None


def test_best_is_the_merged_network_in_a_new_process(finished: tuple[Path, dict[str, Any], str]) -> None:
    folder, report, kind = finished
    architecture = json.loads((folder / "best" / "architecture.json").read_text())
    kinds = [transformation["kind"] for transformation in architecture["transformations"]]
    merged = "replace_activations" if kind == "modules" else "merge_activations"
    assert kinds == ["slice_channels", "reconstruct", merged]
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); torch.set_num_threads(1)\n"
        "from search.export import load\n"
        "model = load(sys.argv[2], trust=['tests']); torch.manual_seed(0); torch.set_grad_enabled(False)\n"
        "print(sum(p.numel() for p in model.parameters())); print(float(model(torch.randn(2, 1, 8, 8)).sum()))"
    )
    command = [sys.executable, "-c", code, str(REPOSITORY), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parameters, total = done.stdout.split()
    assert int(parameters) == report["result"]["parameters"] < report["reference"]["parameters"]
    model = load_best(folder, trust=["tests"])
    torch.manual_seed(0)
    expected = model(torch.randn(2, 1, 8, 8)).detach().sum()
    assert float(total) == pytest.approx(float(expected), rel=1e-5)
    task = load(folder / "config.yaml").build_task()
    assert measure(load_best(folder, trust=["tests"]), task, "test")["top1"] == report["result"]["top1"]


def test_the_merged_network_answers_as_the_retrained_one(finished: tuple[Path, dict[str, Any], str]) -> None:
    from search.run.steps import StageStep

    folder, _, _ = finished
    task = load(folder / "config.yaml").build_task()
    found = [StageStep(folder / "checkpoints" / name / "result", "").load(task) for name in ("2-retrain", "3-fuse")]
    inputs, _ = next(iter(task.batches("search", 64, limit=64)))
    with torch.no_grad():
        before, after = (one[0].model(inputs) for one in found if one is not None)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_the_exports_have_no_connected_activations(finished: tuple[Path, dict[str, Any], str]) -> None:
    import onnx_ir as ir

    from spaces.fusion.onnx_models import fuse_onnx
    from spaces.fusion.program import fuse_program

    folder, _, _ = finished
    read = ir.serde.deserialize_model(onnx.load(folder / "best" / "model.onnx"))
    report = fuse_onnx(read)
    assert report.merges == (), report.lines()
    program = torch.export.load(folder / "best" / "model.pt2")
    assert fuse_program(program)[1].merges == ()


@pytest.mark.slow
def test_a_resumed_run_ends_alike(finished: tuple[Path, dict[str, Any], str], tmp_path: Path) -> None:
    import shutil

    folder, report, _ = finished
    copied = tmp_path / "tiny"
    shutil.copytree(folder, copied)
    shutil.rmtree(copied / "checkpoints" / "3-fuse")
    shutil.rmtree(copied / "best")
    again = run(load(copied / "config.yaml"), copied, None)
    assert again["activations"] == report["activations"]
    assert again["result"] == report["result"]
    names = {entry.name for entry in (copied / "best").iterdir()}
    assert {"weights.safetensors", "architecture.json"} <= names
