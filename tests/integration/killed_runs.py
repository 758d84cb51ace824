"""Tiny runs of eight kinds that are killed: at every change of a file, or by signals at random moments; and their end."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.kill_harness import recorded
from tests.integration.tiny_pipeline import read_report, timeless

HEAD = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 300, train_size: 400}
execution: {executor: serial}
stages:
  - train: {epochs: 5, batch_size: 40, optimizer: {name: sgd, lr: 0.1}}
"""
RETRAIN = """\
  - retrain: {epochs: 2, batch_size: 40, optimizer: {name: adamw, lr: 0.001}, distillation: {}, early_stop: {patience: 1}}
"""
BITS = (
    HEAD
    + """\
  - search:
      space: {name: bit_width, weight_bits: [2, 4, 8], activation_bits: [4, 8]}
      algorithm: {name: progressive, candidates: 3, indicator: equal_saving, steps: 2, refine: 1}
      evaluate: [{omega: {sensitivity: adam, samples: 32}}, {accuracy: {batch_norm_batches: 0}}, cost]
      objectives: {top1: maximize}
      target: {size_bytes: "<= 21%"}
      training: {epochs: 2, batch_size: 40, optimizer: {name: adamw, lr: 0.001}}
      baselines: [uniform]
      batch: 2
"""
    + RETRAIN
)
JOINT = (
    HEAD
    + """\
  - search:
      space: {name: joint, bits: {weight_bits: [2, 4, 8], activation_bits: [4, 8]}, calibration_samples: 64}
      algorithm: {name: genetic, population: 4, generations: 3}
      evaluate: [{omega: {samples: 32, compare: false}}, {accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {size_bytes: "<= 15%"}
      baselines: [random]
      batch: 3
      finalists: {count: 2, training: {epochs: 1, batch_size: 40, optimizer: {name: sgd, lr: 0.01}, clip_norm: 1.0}}
"""
    + RETRAIN
)
SCHEDULE = (
    HEAD
    + """\
  - search:
      space: {name: pruning_schedule, macs: [0.4], largest: [0.2, 0.9]}
      algorithm: {name: optuna, batch: 4, evaluations: 7, startup: 2, halving: {fidelities: [0.25, 0.5]}}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 40%"}
      baselines: [random]
      training: {epochs: 4, batch_size: 40, optimizer: {name: sgd, lr: 0.05}}
      batch: 3
"""
    + RETRAIN
)
FILTER_RATIO = (
    HEAD
    + """\
  - search:
      space: {name: filter_ratio, method: gradient_cut, levels: 10}
      algorithm: {name: genetic, population: 4, generations: 2, racing: null}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 40%"}
      training: {epochs: 2, batch_size: 40, optimizer: {name: sgd, lr: 0.05}}
      baselines: [uniform, dense_same_training]
      batch: 3
"""
    + RETRAIN
)
EVOLUTION = (
    HEAD
    + """\
  - search:
      space: channel_mask
      algorithm: {name: evolution, children: 4, generations: 4, steps: [[32, 2], [64, 1]]}
      evaluate: [{divergence: {samples: 64, pool: 400, batch_norm_batches: 2}}, cost]
      objectives: {divergence: minimize}
      target: {macs: "<= 40%"}
      reconstruct: {images: 128, positions: 4000}
      baselines: [uniform, random]
      batch: 3
"""
    + RETRAIN
)
TABLES = (
    HEAD
    + """\
  - search:
      space: {name: channel_mask, levels: {steps: 6, images: 64, divergence_images: 32}}
      algorithm: integer_program
      evaluate: [{divergence: {samples: 64, pool: 400, batch_norm_batches: 2}}, cost]
      objectives: {divergence: minimize}
      target: {macs: "<= 40%"}
      importance: second_order
      reconstruct: false
      baselines: [uniform, random]
"""
)
RECONSTRUCTION = (
    HEAD
    + """\
  - search:
      space: channel_mask
      algorithm: {name: random, evaluations: 3}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 40%"}
      importance: l2
      reconstruct: false
      baselines: [uniform]
  - reconstruct: {images: 128, positions: 4000, steps: 3}
"""
    + RETRAIN
)
ROUNDS = (
    HEAD
    + """\
  - search:
      space: {name: channel_mask, levels: {steps: 4, images: 64, divergence_images: 32}}
      algorithm: {name: evolution, children: 3, generations: 2, steps: [[32, 2], [64, 1]]}
      evaluate: [{divergence: {samples: 64, pool: 400, batch_norm_batches: 2}}, cost]
      objectives: {divergence: minimize}
      target: {macs: "<= 40%"}
      reconstruct: {images: 128, positions: 4000}
      rounds: 2
      baselines: [uniform]
"""
    + RETRAIN
)
KINDS = {
    "bits": BITS,
    "joint": JOINT,
    "schedule": SCHEDULE,
    "filter_ratio": FILTER_RATIO,
    "evolution": EVOLUTION,
    "tables": TABLES,
    "reconstruction": RECONSTRUCTION,
    "rounds": ROUNDS,
}
CHANGED: tuple[tuple[str, str, Any], ...] = (
    # Pages take longer than all the rest, and are made of report.json alone.
    ("search.report.page", "render_where_installed", lambda folder, say: None),
    # A pass for every layer of a reconstruction, each kept: as for a network that is too large for one pass.
    ("spaces.reconstruction.dense", "AT_ONCE", 0),
    ("search.stages.solving", "EVERY", 0.0),
)
"""Attributes of modules, and what they are in a run that is killed, and in the one that it is compared with."""

SIGNALS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: -signal.SIGTERM, signal.SIGHUP: -signal.SIGHUP, signal.SIGINT: 130}
"""Signals, and the exit code of a run that got one."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "os.symlink", "os.link"}
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}|log\.txt")
_PR_SET_PDEATHSIG = 1


@contextmanager
def before_every_change(folder: Path, call: Callable[[int], None]) -> Iterator[None]:
    """Call ``call`` with a number, from 0, before each change of a file in ``folder``: at every moment that a kill can find.

    Audit hooks (PEP 578) can't be taken away: for processes of a test's own.
    """
    count, inside = 0, False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, inside
        if inside or not (event in _CHANGES or (event == "open" and (arguments[2] or 0) & _WRITES)):
            return
        if str(arguments[0]).startswith(str(folder)):
            inside = True
            call(count)
            count += 1
            inside = False

    sys.addaudithook(hook)
    try:
        yield
    finally:
        inside = True


def photograph(config: Path, folder: Path, album: Path) -> None:
    """Run a pipeline and copy its folder before each change, as ``album/NUMBER``; the body of a process of its own."""
    from search.config import load
    from search.pipeline import run

    def copy(number: int) -> None:
        if folder.exists():
            shutil.copytree(folder, album / f"{number:04}", symlinks=True)

    change_modules()
    with before_every_change(folder, copy):
        run(load(config), folder, None)


def distinct(album: Path) -> list[Path]:
    """Return the copies that a resumed run can tell from the one before: by other files than those that it throws away."""
    found, before = [], ""
    for copy in sorted(album.iterdir()):
        digest = hashlib.sha256()
        for path in sorted(copy.rglob("*")):
            if path.is_file() and not _UNFINISHED.fullmatch(path.name):
                digest.update(f"{path.relative_to(copy)}\0".encode() + path.read_bytes())
        if digest.hexdigest() != before:
            found.append(copy)
        before = digest.hexdigest()
    return found


def be_the_command(config: Path, runs: Path, output: Path) -> None:
    """Be ``python -m search run CONFIG --runs RUNS``, as :data:`CHANGED` says, until the process that started this one ends."""
    from search.__main__ import main

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    change_modules()
    sys.argv = ["search", "run", str(config), "--runs", str(runs)]
    main()


def change_modules(change: Callable[[object, str, Any], None] = setattr) -> None:
    """Let this process run as :data:`CHANGED` says, by ``change`` of a module, a name and a value."""
    for module, name, value in CHANGED:
        change(importlib.import_module(module), name, value)


def outcome(folder: Path) -> dict[str, Any]:
    """Return all that a run must come to whatever befell it: trials, report without seconds, and the bytes of ``best/``."""
    best = {path.name: path.read_bytes() for path in sorted((folder / "best").iterdir())}
    trials = {name: json.dumps(trials) for name, trials in recorded(folder).items()}
    return {"report": timeless(read_report(folder)), **trials, **best}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return the names of what two outcomes differ in."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


class Results:
    """Lines of a results file, so that a test that was killed itself goes on from there.

    Args:
        path: The file, a line of JSON per result.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("\n")]

    def add(self, **row: Any) -> None:
        """Append a result, and print it."""
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(self._path.parent.name, *(f"{name}={value}" for name, value in row.items()), flush=True)
