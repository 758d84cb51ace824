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
from tests.integration.tiny_pipeline import (
    CONFIG,
    SHORT,
    command,
    finish,
    kill_when,
    read_report,
    start,
    timeless,
    write_config,
)


@pytest.fixture(scope="module")
def uninterrupted(recorded: Callable[[str], Path]) -> Path:
    """Return the folder of a run that was never stopped."""
    return recorded(SHORT)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at(config: Path, folder: Path, *moments: Callable[[], bool]) -> None:
    """Kill a run at each moment in turn and run it again, at last to its end."""
    for moment in moments:
        kill_when(start(config, folder), moment)
    assert not (folder / "report.json").exists()
    finish(start(config, folder))


def assert_ended_alike(folder: Path, uninterrupted: Path) -> None:
    whole, found = read_report(uninterrupted), read_report(folder)
    assert found["pareto"] == whole["pareto"]
    assert found["result"] == whole["result"]
    assert timeless(found) == timeless(whole)
    weights = "best/weights.safetensors"
    assert (folder / weights).read_bytes() == (uninterrupted / weights).read_bytes()
    assert all(stage["seconds"] > 0 for stage in found["stages"])


def training(folder: Path, step: str, variant: str = "result") -> Callable[[], bool]:
    return lambda: (folder / "checkpoints" / step / variant / "training.safetensors").exists()


def test_killed_in_a_search_and_in_both_trainings(tmp_path: Path, uninterrupted: Path) -> None:
    config, folder = write_config(tmp_path, SHORT), tmp_path / "tiny"
    journal = folder / "study.journal"
    kill_at(config, folder, training(folder, "0-train"), lambda: lines(journal) > 14, training(folder, "2-retrain"))
    assert_ended_alike(folder, uninterrupted)


@pytest.mark.slow
def test_killed_in_every_stage(tmp_path: Path, recorded: Callable[[str], Path]) -> None:
    config, folder = write_config(tmp_path), tmp_path / "tiny"
    journal = folder / "study.journal"
    kill_at(
        config,
        folder,
        training(folder, "1-sparse_training"),
        lambda: lines(journal) > 14,
        lambda: (folder / "best" / "weights.safetensors").exists() and lines(journal) > 40,
        lambda: (folder / "checkpoints" / "2-search" / "random").exists(),
        training(folder, "3-retrain"),
        training(folder, "3-retrain", "random"),
    )
    assert_ended_alike(folder, recorded(CONFIG))


@pytest.mark.slow
def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    config, folder = write_config(tmp_path, SHORT), tmp_path / "tiny"
    with RunFolder(folder) as first:
        first.adopt(load(config).canonical(), load(config).build_task().fingerprint)
        second = command(config, tmp_path)
    assert second.returncode == 2
    assert "in use by another process" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.usefixtures("no_pictures")
def test_a_finished_run_is_left_as_it_is(uninterrupted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "tiny"))
    kept = [folder / "checkpoints" / "measurements.json", folder / "best" / "weights.safetensors"]
    before = [path.stat().st_mtime_ns for path in kept]
    assert run(load(write_config(tmp_path, SHORT)), folder, None) == read_report(uninterrupted)
    assert [path.stat().st_mtime_ns for path in kept] == before


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("seed=4", r"seed was 3 and is now 4"),
        ("stages.retrain.batch_size=40", r"stages\.2\.retrain\.batch_size"),
        ("task.data.search_size=150", r"task\.data\.search_size"),
        ("stages.search.algorithm.generations=2", r"stages\.1\.search\.algorithm\.generations"),
    ],
)
def test_another_configuration_is_refused_by_its_field(uninterrupted: Path, tmp_path: Path, override: str, field: str) -> None:
    folder = Path(shutil.copytree(uninterrupted, tmp_path / "tiny"))
    with pytest.raises(SecateursError, match=field):
        run(load(write_config(tmp_path, SHORT), [override]), folder, None)
    assert (folder / "config.yaml").read_text() == (uninterrupted / "config.yaml").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_raised_budget_goes_on_from_the_recorded_trials(uninterrupted: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    first = run(load(write_config(tmp_path, SHORT), ["stages.search.algorithm.generations=1"]), short, None)
    longer = run(load(write_config(tmp_path, SHORT)), short, None)
    whole = read_report(uninterrupted)
    assert len(first["searches"][0]["trials"]) < len(longer["searches"][0]["trials"])
    assert timeless(longer) == timeless(whole)
    provenance = json.loads((short / "best" / "architecture.json").read_text())["provenance"]
    assert provenance["trial"] == whole["searches"][0]["chosen"]
