"""docs/extending.md: its blocks, installed as a package with entry points, pass the shipped checks and run end to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from evaluators.cost import count_costs
from evaluators.latency.backends.base import find_backend
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.settings import NamedData, TaskSettings, build_task
from evaluators.testing import check_backend, check_evaluator
from search.cli import app
from search.executors.base import Executor, Workload
from search.executors.testing import check_executor
from spaces.registry import plug_ins
from spaces.testing import check_layer_kind, check_settings, check_space, check_sparsifier
from tests.paths import REPOSITORY

ENTRY_POINTS = {
    "spaces": "uniform_ratio = mine.space:UniformRatio",
    "layer_kinds": "mixer = mine.layer_kind:MixerKind",
    "sparsifiers": "fade = mine.sparsifier:Fade",
    "evaluators": "depth = mine.evaluator:Depth",
    "data_sets": "stripes = mine.data:Stripes",
    "backends": "inference = mine.backend:Inference",
    "algorithms": "coin = mine.algorithm:Coin",
    "executors": "last_first = mine.executor:LastFirst",
    "stages": "clamp = mine.stage:Clamp",
    "figures": "seconds = mine.figure:Seconds",
}

CONFIG = """\
name: mine
task:
  model: {factory: mine.layer_kind.mixed_network, arguments: {classes: 2}}
  data: {name: stripes, search_size: 100, train_size: 300}
execution: {executor: last_first}
stages:
  - sparse_training: {sparsifier: {name: fade, share: 0.002}, epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
  - clamp: {limit: 1.5}
  - search:
      space: {name: uniform_ratio, shares: [0.25, 0.5, 0.75]}
      algorithm: {name: coin, evaluations: 3}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost, depth, {latency: {backend: inference, repetitions: 20}}]
      objectives: {top1: maximize, widest: minimize}
      target: {macs: "<= 70%"}
      baselines: []
  - retrain: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.02}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the package of the document, installed as an installer would leave it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "mine").mkdir()
    (folder / "mine" / "__init__.py").touch()
    text = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    for name, code in re.findall(r"```python\n# mine/(\w+\.py)\n(.*?)```", text, flags=re.DOTALL):
        (folder / "mine" / name).write_text(code, encoding="utf-8")
    written = folder / "mine-1.0.dist-info"
    written.mkdir()
    (written / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    groups = [f"[secateurs.{group}]\n{line}\n" for group, line in ENTRY_POINTS.items()]
    (written / "entry_points.txt").write_text("\n".join(groups))
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the package on the path of this process."""
    monkeypatch.syspath_prepend(str(site))
    plug_ins.cache_clear()
    yield
    plug_ins.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def member(name: str) -> ModuleType:
    """Return a module of the package."""
    return import_module(f"mine.{name}")


def test_the_document_has_a_block_of_every_kind(site: Path) -> None:
    modules = {line.partition("= mine.")[2].partition(":")[0] for line in ENTRY_POINTS.values()}
    assert {path.stem for path in (site / "mine").glob("*.py")} == modules | {"__init__"}


@pytest.mark.usefixtures("installed")
def test_the_members_pass_the_shipped_checks() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = member("layer_kind").mixed_network(classes=3).eval()
        images, classes = torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,))
    check_layer_kind("mixer", network, images[:1])
    check_space(member("space").UniformRatio, network, images[:1], lambda model: count_costs(model, images[:1]))
    check_sparsifier(member("sparsifier").Fade, network, images, classes)
    data = NamedData("stripes", member("data").Stripes.Settings(search_size=100, train_size=100))
    task = build_task(TaskSettings(ModelSettings("mine.layer_kind.mixed_network", {"classes": 2}), data))
    check_evaluator(member("evaluator").Depth, task)
    check_backend(find_backend("inference"))
    check_settings(member("algorithm").Coin.Settings)
    check_settings(member("stage").Clamp.Settings)

    def made(workload: Workload) -> Executor[Any]:
        executor: Executor[Any] = member("executor").LastFirst(workload, member("executor").LastFirst.Settings())
        return executor

    check_executor(made)


def command(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an environment that has the package."""
    paths = os.pathsep.join([str(site), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-m", "search", *arguments]
    return subprocess.run(whole, env=environment, cwd=site, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("installed")
def test_they_are_listed() -> None:
    listed = CliRunner().invoke(app, ["list"]).output
    for group in ("spaces", "sparsifiers", "evaluators", "data_sets", "algorithms", "executors", "stages"):
        assert ENTRY_POINTS[group].partition(" ")[0] in listed
    described = CliRunner().invoke(app, ["list", "clamp"]).output
    assert "Largest absolute value that a weight may keep" in re.sub(r"[\s│|]+", " ", described)


@pytest.mark.slow
def test_a_pipeline_of_all_of_them_runs_to_its_report(site: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(CONFIG)
    done = command(site, "run", str(config), "--runs", str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "mine"
    report = json.loads((folder / "report.json").read_text())
    (searched,) = report["searches"]
    assert len(searched["trials"]) == 3
    assert all(trial["metrics"]["widest"] >= 2 and trial["metrics"]["latency_ms"] > 0 for trial in searched["trials"])
    assert report["result"]["macs"] <= 0.7 * report["reference"]["macs"]
    assert "weights within 1.5" in (folder / "log.txt").read_text()
    page = (folder / "report.html").read_text()
    assert "widest convolution" in page
    assert "PyTorch, inference mode" in page
    assert (folder / "figures" / "seconds.png").stat().st_size > 0
    assert "Where the time went" in page
