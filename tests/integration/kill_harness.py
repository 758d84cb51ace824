"""A run that is hit again and again, always goes on by the same command, and is compared with one that was left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.export import load
from search.study.journal import cut_torn_records
from tests.integration.tiny_pipeline import read_report, timeless, write_config
from tests.paths import REPOSITORY

PIPELINE = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 300, train_size: 500}
stages:
  - train: {epochs: 3, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - sparse_training:
      sparsifier: {name: scaling_factor, strength: 1.0e-3}
      epochs: 3
      batch_size: 50
      optimizer: {name: sgd, lr: 0.05}
  - search:
      space: channel_mask
      algorithm: {name: genetic, population: 8, generations: 6}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost, tests.integration.pausing.Pause]
      objectives: {top1: maximize, macs: minimize}
      target: {macs: "<= 60%"}
      baselines: [uniform]
      batch: 4
  - retrain: {epochs: 3, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
"""
LOOK_SECONDS = 0.2
MISSED_SECONDS = 5.0
MOST_SECONDS = 600.0

Blow = Callable[[subprocess.Popen[bytes]], bool]
Record = dict[str, list[tuple[int, str, str, Any]]]


def kill_driver(process: subprocess.Popen[bytes]) -> bool:
    """Kill the driver, and say whether that has hit anything."""
    if process.poll() is not None:
        return False
    process.kill()
    process.wait()
    return True


def kill_one(found: Callable[[subprocess.Popen[bytes]], list[int]], rng: random.Random) -> Blow:
    """Return a blow that kills one of the processes that ``found`` gives, if there is one."""

    def kill(process: subprocess.Popen[bytes]) -> bool:
        pids = found(process)
        if not pids:
            return False
        try:
            os.kill(rng.choice(sorted(pids)), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    return kill


def launch(config: Path, runs: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start ``python -m search run``."""
    with (config.parent / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "search", "run", str(config), "--runs", str(runs)],
            stdout=output,
            stderr=output,
            env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            cwd=config.parent,
        )


def recorded(folder: Path) -> Record:
    """Return what a run's journal has of every study, read from a copy, as a resumed run would."""
    import optuna

    journal = folder / "study.journal"
    if not journal.exists():
        return {}
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "study.journal"
        shutil.copy(journal, copy)
        cut_torn_records(copy)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(copy)))
        return {
            study.study_name: [
                (trial.number, trial.user_attrs["fingerprint"], trial.state.name, trial.user_attrs["metrics"])
                for trial in storage.get_all_trials(study._study_id)
            ]
            for study in storage.get_all_studies()
        }


@dataclass
class Ordeal:
    """One run folder, and what befalls it.

    Attributes:
        folder: Where configuration and run folder are.
        execution: The configuration's ``execution`` block.
        whole: The folder of the run that was left alone.
        blows: What may happen at a random moment, by name.
        rng: Chooses blows and moments.
        span: A blow comes at most so many seconds after the last one, or the start.
        environment: Of the command.
        count: How often each blow has hit.
        runs: How many runs went to their end.
    """

    folder: Path
    execution: str
    whole: Path
    blows: Mapping[str, Blow]
    rng: random.Random
    span: float
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    count: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    _before: Record = field(default_factory=dict)
    _had_best: bool = False

    def __post_init__(self) -> None:
        self.config = write_config(self.folder, f"{PIPELINE}execution: {self.execution}\n")
        self.run_folder = self.folder / "runs" / "tiny"
        self._expected = recorded(self.whole)

    @property
    def hits(self) -> int:
        """Number of blows so far."""
        return sum(self.count.values())

    def endure(self, kills: int) -> None:
        """Hit runs ``kills`` times in all; whenever one has ended in spite of that, compare it and begin another."""
        while True:
            process = launch(self.config, self.folder / "runs", self.environment)
            try:
                ended = self._follow(process, kills)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            self._check_record()
            if not ended:
                continue
            self._compare()
            if self.hits >= kills:
                return
            shutil.rmtree(self.run_folder)
            self._before, self._had_best = {}, False

    def _follow(self, process: subprocess.Popen[bytes], kills: int) -> bool:
        """Watch a driver, with blows, until it has ended; say whether that was by itself."""
        deadline = time.monotonic() + MOST_SECONDS
        due = time.monotonic() + self.rng.uniform(0.0, self.span)
        name = self.rng.choice(sorted(self.blows))
        while process.poll() is None:
            assert time.monotonic() < deadline, f"the run goes on and on: {self._output()}"
            self._check_best()
            if self.hits < kills and time.monotonic() >= due:
                # Where there is nothing to hit, it is tried again, but not as soon as there is.
                wait = min(self.span, MISSED_SECONDS)
                if self.blows[name](process):
                    self.count[name] = self.count.get(name, 0) + 1
                    wait = self.span
                    if name == "driver":
                        return False
                    name = self.rng.choice(sorted(self.blows))
                due = time.monotonic() + self.rng.uniform(0.0, wait)
            time.sleep(LOOK_SECONDS)
        assert process.returncode == 0, self._output()
        return True

    def _check_best(self) -> None:
        """Make sure that ``best/`` is whole, now and ever since it was first there."""
        self._had_best = self._had_best or (self.run_folder / "best").exists()
        if self._had_best:
            load(self.run_folder)

    def _check_record(self) -> None:
        """Make sure that no trial was lost since the last look, none counted twice, and each is as it should be."""
        self._check_best()
        found = recorded(self.run_folder)
        for study, trials in found.items():
            assert trials == self._expected[study][: len(trials)]
        for study, trials in self._before.items():
            assert len(found[study]) >= len(trials)
        self._before = found

    def _compare(self) -> None:
        """Make sure that the run ended as the one that was left alone."""
        self.runs += 1
        assert recorded(self.run_folder) == self._expected
        assert timeless(read_report(self.run_folder)) == timeless(read_report(self.whole))
        for name in ("weights.safetensors", "architecture.json"):
            ours, theirs = (folder / "best" / name for folder in (self.run_folder, self.whole))
            assert ours.read_bytes() == theirs.read_bytes()

    def _output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-4000:]
