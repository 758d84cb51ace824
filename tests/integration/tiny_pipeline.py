"""A whole pipeline of a few seconds, for the tests that run it from outside."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.paths import REPOSITORY

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 300, train_size: 500}
stages:
  - train: {epochs: 3, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - sparse_training:
      sparsifier: {name: scaling_factor, strength: 1.0e-3}
      epochs: 4
      batch_size: 50
      optimizer: {name: sgd, lr: 0.05}
  - search:
      space: channel_mask
      algorithm: {name: genetic, population: 8, generations: 5}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize, macs: minimize}
      target: {macs: "<= 60%"}
      baselines: [uniform, random, dense_same_training]
      batch: 4
  - retrain: {epochs: 4, batch_size: 50, optimizer: {name: sgd, lr: 0.05}, early_stop: {patience: 3}, distillation: {}}
"""

SHORT = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 100, train_size: 200}
stages:
  - train: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: channel_mask
      algorithm: {name: genetic, population: 6, generations: 3}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 60%"}
      batch: 3
  - retrain: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
"""
"""Where it is about the run's files or its storage, and not about what is found."""


def write_config(folder: Path, text: str = CONFIG) -> Path:
    """Write a configuration and return its path."""
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def command(config: Path, runs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m search run`` to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "search", "run", str(config), *overrides, "--runs", str(runs)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=config.parent,
        check=False,
    )


def drive(config: Path, folder: Path) -> None:
    """Run the pipeline; the body of a process of its own."""
    from search.config import load
    from search.pipeline import run

    run(load(config), folder, None)


def start(config: Path, folder: Path) -> BaseProcess:
    """Start the pipeline in a process forked from one that has its modules loaded, but has computed nothing."""
    return start_call(drive, config, folder)


def start_call(target: Callable[..., Any], *arguments: object) -> BaseProcess:
    """Start a call, of a function of a module, in such a process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    # The last three are what training, the data and the pictures import when they are first used.
    ours = ["search.pipeline.pipeline", "search.report.page", "search.study.journal", "search.stages.search.stage"]
    for module in ours:
        assert find_spec(module), module  # The fork server passes over a name that is not there.
    context.set_forkserver_preload([*ours, "torch._dynamo", "sklearn.datasets", "matplotlib.backends.backend_svg"])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def finish(process: BaseProcess) -> None:
    """Wait for a good end."""
    process.join(timeout=300)
    assert process.exitcode == 0


def kill_when(process: BaseProcess, reached: Callable[[], bool]) -> None:
    """Kill the process with SIGKILL as soon as ``reached`` says so."""
    deadline = time.monotonic() + 200
    try:
        while not reached():
            assert process.is_alive(), f"the run ended with {process.exitcode} before it got there"
            assert time.monotonic() < deadline, "the run never got there"
            time.sleep(0.002)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -9


def timeless(report: Any) -> Any:
    """Return a report without what a clock has a part in."""
    if isinstance(report, dict):
        clocks = ("seconds", "baseline_seconds", "worker_seconds", "digest")
        return {name: timeless(value) for name, value in report.items() if name not in clocks}
    return [timeless(item) for item in report] if isinstance(report, list) else report


def read_report(folder: Path) -> dict[str, Any]:
    """Return report.json of a run folder."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found
