"""A training by two workers ends the same, however often a worker or the driver is killed at random moments.

``SECATEURS_KILLS`` sets the number of kills (20), ``SECATEURS_KILLS_SECONDS`` the time after which there are no more (1500),
and ``SECATEURS_KILLS_SEED`` other moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evaluators.training.checkpoint import FileCheckpoint
from tests.paths import REPOSITORY
from tests.processes import processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("SECATEURS_KILLS", "20"))
SECONDS = float(os.environ.get("SECATEURS_KILLS_SECONDS", "1500"))
SEED = int(os.environ.get("SECATEURS_KILLS_SEED", "0"))
VICTIMS = ("first worker", "second worker", "driver")


def start(folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.search.executors.killed_training", str(folder)]
    with (folder / "output").open("a") as output:
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, text=True)


def end(folder: Path) -> dict[str, Tensor] | None:
    """Return the weights that a training has ended with; None before its end."""
    known = FileCheckpoint(folder / "end.safetensors").load()
    return None if known is None else known[0]


def said(folder: Path) -> int:
    """Return the number of lines that the driver has written."""
    output = folder / "output"
    return output.read_text().count("\n") if output.exists() else 0


def victim(who: str, driver: subprocess.Popen[str]) -> int | None:
    """Return the process to kill; None while it is not there."""
    if who == "driver":
        return driver.pid
    workers = sorted(processes("ray::TrainingRank", driver.pid))
    return None if len(workers) < 2 else workers[VICTIMS.index(who)]


def struck(driver: subprocess.Popen[str], folder: Path, who: str, chance: random.Random) -> bool:
    """Kill a process a moment after training goes on, and return whether it was there."""
    before, patience = said(folder), time.monotonic() + 300.0
    while driver.poll() is None and said(folder) == before and time.monotonic() < patience:
        time.sleep(0.05)
    time.sleep(chance.uniform(0.0, 1.0))
    pid = victim(who, driver)
    if driver.poll() is not None or pid is None:
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    assert start(tmp_path / "whole").wait(600) == 0, (tmp_path / "whole" / "output").read_text()
    whole = end(tmp_path / "whole")
    assert whole is not None
    chance, began, kills, trainings = random.Random(SEED), time.monotonic(), Counter[str](), 0
    while kills.total() < KILLS and time.monotonic() - began < SECONDS:
        trainings += 1
        folder = tmp_path / f"training {trainings}"
        driver = start(folder)
        while driver.poll() is None or end(folder) is None:
            if driver.poll() is not None:
                assert driver.returncode in (0, -signal.SIGKILL), (folder / "output").read_text()
                driver = start(folder)
            more = kills.total() < KILLS and time.monotonic() - began < SECONDS
            who = chance.choice(VICTIMS)
            if more and struck(driver, folder, who, chance):
                kills[who] += 1
                print(f"kill {kills.total()}: {who}", flush=True)
                if who == "driver":
                    driver.wait(60)
            elif not more:
                driver.wait(600)
        found = end(folder)
        assert found is not None
        assert all(torch.equal(found[name], tensor) for name, tensor in whole.items()), (folder / "output").read_text()
        print(f"training {trainings} ended as without kills", flush=True)
    print(f"{kills.total()} kills in {trainings} trainings: {dict(kills)}", flush=True)
    assert kills.total() >= min(KILLS, 3)
