"""Runs of eight kinds end the same whenever they are killed: by signals at random moments, and before every change of a file.

``SECATEURS_KILLS`` sets the number of signals per kind (50), ``SECATEURS_KILLS_SEED`` other moments. With
``SECATEURS_KILLS_FOLDER`` what was done is kept there, and a test that was stopped goes on from it.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from search.config import load
from search.pipeline import run
from tests.integration.killed_runs import (
    KINDS,
    SIGNALS,
    Results,
    be_the_command,
    change_modules,
    differences,
    distinct,
    outcome,
    photograph,
)
from tests.integration.tiny_pipeline import finish, start_call, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("SECATEURS_KILLS", "50"))
SEED = int(os.environ.get("SECATEURS_KILLS_SEED", "0"))
PLACE = os.environ.get("SECATEURS_KILLS_FOLDER")
SPAN = 0.5
"""A signal comes at most so late, as a share of the time of a whole run."""
LONGEST = 600.0


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def place_of(test: str, kind: str, tmp_path: Path) -> Path:
    """Return the folder of a test, with the configuration."""
    place = (tmp_path if PLACE is None else Path(PLACE).resolve()) / f"{test}-{kind}-{SEED}"
    place.mkdir(parents=True, exist_ok=True)
    write_config(place, KINDS[kind])
    return place


def launch(place: Path, runs: str) -> BaseProcess:
    return start_call(be_the_command, place / "tiny.yaml", place / runs, place / "output")


def whole_run(place: Path) -> tuple[Path, float]:
    """Return the folder of a run that was left alone, and its seconds."""
    folder, seconds = place / "whole" / "tiny", place / "seconds"
    if not seconds.exists():
        shutil.rmtree(place / "whole", ignore_errors=True)
        finish(launch(place, "warm"))  # The first process loads what all later ones share.
        shutil.rmtree(place / "warm")
        began = time.monotonic()
        finish(launch(place, "whole"))
        seconds.write_text(str(time.monotonic() - began))
    return folder, float(seconds.read_text())


def test_signals_at_random_moments(kind: str, tmp_path: Path) -> None:
    place = place_of("signals", kind, tmp_path)
    whole, seconds = whole_run(place)
    expected, results, folder = outcome(whole), Results(place / "results.jsonl"), place / "killed" / "tiny"
    while True:
        hits = sum(row["hit"] for row in results.rows)
        if hits >= KILLS and results.rows[-1]["ended"]:
            break
        rng = random.Random(f"{SEED} {kind} {len(results.rows)}")
        chosen, moment = rng.choice(sorted(SIGNALS)), rng.uniform(0.0, SPAN * seconds)
        process = launch(place, "killed")
        process.join(moment if hits < KILLS else LONGEST)
        hit = process.is_alive()
        if hit:
            assert process.pid is not None
            os.kill(process.pid, chosen)
        process.join(LONGEST)
        code = process.exitcode
        # A signal may come while the process is ending, or, of the keyboard's, before the command begins or when it has ended.
        assert code in ((0, 1, SIGNALS[chosen]) if hit else (0,)), (place / "output").read_text()[-4000:]
        ended = code == 0
        if ended:
            found = differences(outcome(folder), expected)
            assert not found, f"killed, it ended with other {found}; see {folder}"
            shutil.rmtree(folder)
        row = {"hit": hit, "signal": chosen.name, "after": round(moment, 2), "code": code, "ended": ended}
        results.add(number=len(results.rows), hits=hits + hit, **row)
    print(f"{kind}: {hits} hits, {sum(row['ended'] for row in results.rows)} runs to their end")


def test_before_every_change_of_a_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_modules(monkeypatch.setattr)
    place = place_of("changes", kind, tmp_path)
    whole, album, done = place / "tiny", place / "album", place / "photographed"
    if not done.exists():
        for left in (whole, album):
            shutil.rmtree(left, ignore_errors=True)
        finish(start_call(photograph, place / "tiny.yaml", whole, album))
        done.touch()
    config, expected, results = load(place / "tiny.yaml"), outcome(whole), Results(place / "results.jsonl")
    copies = distinct(album)
    for copy in copies[len(results.rows) :]:
        folder = place / "resumed" / "tiny"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(copy, folder, symlinks=True)
        run(config, folder, None)
        found = differences(outcome(folder), expected)
        assert not found, f"killed before change {copy.name}, it ended with other {found}; see {folder}"
        results.add(change=int(copy.name), of=len(copies))
