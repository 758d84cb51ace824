"""The package without extras, in an environment of its own, runs a configuration of its own to the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import REPOSITORY

CONFIG = """
name: own
task: {class: own_task.ShapeSegmentation, arguments: {width: 4, samples: 64, side: 16}}
stages:
  - search:
      space: channel_mask
      algorithm: {name: random, evaluations: 3}
      evaluate: [accuracy, cost]
      objectives: {iou: maximize}
  - export: {formats: [torch_export]}
"""
INSTALLED = "from search.config.extras import EXTRAS, is_installed; print([name for name in EXTRAS if is_installed(name)])"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv makes the environment")
@pytest.mark.timeout(1800)
def test_a_bare_installation_runs_a_task_of_its_own_and_names_what_it_lacks(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    for words in (
        ("uv", "venv", "-q", str(tmp_path / "venv")),
        ("uv", "pip", "install", "-q", "--python", str(python), str(REPOSITORY)),
    ):
        done = run(*words)
        assert done.returncode == 0, done.stderr
    assert run(str(python), "-c", INSTALLED).stdout.strip() == "[]"
    shutil.copy(REPOSITORY / "examples" / "shape_segmentation.py", tmp_path / "own_task.py")
    (tmp_path / "own.yaml").write_text(CONFIG)
    done = run(str(python), "-m", "search", "run", "own.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('pip install "secateurs[report]"') == 1
    assert json.loads((tmp_path / "runs" / "own" / "report.json").read_text())["result"]["macs"] > 0
    assert not (tmp_path / "runs" / "own" / "report.html").exists()
    shutil.copy(REPOSITORY / "configs" / "quickstart.yaml", tmp_path)
    done = run(str(python), "-m", "search", "check", "quickstart.yaml", "execution.executor=ray")
    assert done.returncode == 2
    assert 'pip install "secateurs[digits,onnx,ray]"' in done.stderr
    assert run(str(python), "-m", "search", "report", "runs/own").returncode == 2
