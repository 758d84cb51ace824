"""Killed at any moment, the same command goes on and ends as if it had not been."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from search.config import load
from search.pipeline import run
from search.run.run_folder import RunFolder
from spaces.errors import SecateursError
from tests.integration.tiny_pipeline import CONFIG, command, finish, kill_when, read_report, start, timeless, write_config


@pytest.fixture(scope="module")
def uninterrupted(recorded: Callable[[str], Path]) -> Path:
    """Return the folder of a run that was never stopped."""
    return recorded(CONFIG)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_in_every_stage(tmp_path: Path, uninterrupted: Path) -> None:
    config, folder = write_config(tmp_path), tmp_path / "tiny"
    steps, journal = folder / "checkpoints", folder / "study.journal"

    def training(step: str, variant: str = "result") -> bool:
        return (steps / step / variant / "training.safetensors").exists()

    kill_when(start(config, folder), lambda: training("1-sparse_training"))
    kill_when(start(config, folder), lambda: lines(journal) > 14)
    assert (folder / "best" / "weights.safetensors").exists()
    kill_when(start(config, folder), lambda: lines(journal) > 40)
    kill_when(start(config, folder), lambda: (steps / "2-search" / "random").exists())
    kill_when(start(config, folder), lambda: training("3-retrain"))
    kill_when(start(config, folder), lambda: training("3-retrain", "random"))
    assert not (folder / "report.json").exists()
    finish(start(config, folder))

    whole, found = read_report(uninterrupted), read_report(folder)
    assert found["pareto"] == whole["pareto"]
    assert found["result"] == whole["result"]
    assert timeless(found) == timeless(whole)
    assert (folder / "best" / "weights.safetensors").read_bytes() == (
        uninterrupted / "best" / "weights.safetensors"
    ).read_bytes()
    assert all(stage["seconds"] > 0 for stage in found["stages"])


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    config, folder = write_config(tmp_path), tmp_path / "tiny"
    with RunFolder(folder) as first:
        first.adopt(load(config).canonical(), load(config).build_task().fingerprint)
        second = command(config, tmp_path)
    assert second.returncode == 2
    assert "in use by another process" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_finished_run_is_left_as_it_is(uninterrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "tiny"))
    kept = [folder / "checkpoints" / "measurements.json", folder / "best" / "weights.safetensors"]
    before = [path.stat().st_mtime_ns for path in kept]
    assert run(load(write_config(tmp_path)), folder, None) == read_report(uninterrupted)
    assert [path.stat().st_mtime_ns for path in kept] == before


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("seed=4", r"seed was 3 and is now 4"),
        ("stages.retrain.epochs=5", r"stages\.3\.retrain\.epochs"),
        ("task.data.search_size=200", r"task\.data\.search_size"),
        ("stages.search.algorithm.generations=4", r"stages\.2\.search\.algorithm\.generations"),
    ],
)
def test_another_configuration_is_refused_by_its_field(uninterrupted: Path, tmp_path: Path, override: str, field: str) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "tiny"))
    with pytest.raises(SecateursError, match=field):
        run(load(write_config(tmp_path), [override]), folder, None)
    assert (folder / "config.yaml").read_text() == (uninterrupted / "config.yaml").read_text()


def test_a_raised_budget_goes_on_from_the_recorded_trials(uninterrupted: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    first = run(load(write_config(tmp_path), ["stages.search.algorithm.generations=3"]), short, None)
    longer = run(load(write_config(tmp_path)), short, None)
    whole = read_report(uninterrupted)
    assert len(first["searches"][0]["trials"]) < len(longer["searches"][0]["trials"])
    assert timeless(longer) == timeless(whole)
    provenance = json.loads((short / "best" / "architecture.json").read_text())["provenance"]
    assert provenance["trial"] == whole["searches"][0]["chosen"]
