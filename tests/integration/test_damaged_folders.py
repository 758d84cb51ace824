"""Two hundred damaged run folders: a damaged file is made again, or refused by its name, and the run ends as it would have.

``SECATEURS_DAMAGED`` names a file of results to go on from; ``pytest -m slow -n 0 -s`` shows the progress.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spaces.errors import SecateursError
from tests.integration.damaged_folders import Damage, Folders
from tests.integration.malformed_trials import known
from tests.paths import REPOSITORY


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Return whole and half-made run folders."""
    return Folders(tmp_path_factory.mktemp("runs"))


ENDED = [
    ("checkpoints/0-train/result/network.safetensors", "flipped"),
    ("checkpoints/1-search/result/network.safetensors", "gone"),
    ("checkpoints/1-search/result/key.json", "gone"),
    ("checkpoints/1-search/result/sensitivity.json", "flipped"),
    ("checkpoints/2-retrain/result/seconds.json", "cut"),
    ("checkpoints/measurements.json", "flipped"),
    ("checkpoints/start/network.safetensors", "empty"),
    ("best/weights.safetensors", "flipped"),
    ("best/architecture.json", "gone"),
    ("config.yaml", "flipped"),
    ("environment.json", "gone"),
    ("study.journal", "overwritten"),
]
"""Damage to a run of bits that has ended."""


def test_a_damaged_piece_is_named_and_made_again(folders: Folders, tmp_path: Path) -> None:
    for file, way in ENDED:
        outcome = Damage("bits", "ended", file, way, "run", 0).outcome(folders, tmp_path / "case")
        assert (outcome.wrong, "same" in outcome.words) == ("", True), f"{file} {way}: {outcome}"
        assert file.endswith("sensitivity.json") or "told" in outcome.words, f"{file} {way}: {outcome}"


def test_a_damaged_network_is_not_loaded_and_a_damaged_report_not_shown(folders: Folders, tmp_path: Path) -> None:
    for file, command in (("best/weights.safetensors", "load"), ("best/architecture.json", "load"), ("report.json", "report")):
        outcome = Damage("bits", "ended", file, "flipped", command, 0).outcome(folders, tmp_path / "case")
        assert (outcome.wrong, outcome.words) == ("", "refused"), f"{file}: {outcome}"


def test_what_nothing_else_tells_is_refused_with_its_cost(folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    shutil.copytree(folders.template("bits", "ended"), folder)
    for name in ("config.yaml", "environment.json"):
        (folder / name).unlink()
        (folder / name).touch()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        SecateursError, match=r"environment\.json.*config\.yaml.*another name.*Deleting .* costs all of the run"
    ):
        folders.command("run", "bits", folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_whatever_is_damaged_no_other_result_comes_without_a_word(tmp_path: Path) -> None:
    results = os.environ.get("SECATEURS_DAMAGED", str(tmp_path / "results.jsonl"))
    command = [sys.executable, "-m", "tests.integration.damaged_trials", results]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0
    assert len(known(Path(results))) >= 200
