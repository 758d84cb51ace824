"""Two hundred damaged run folders: a damaged file is made again, or refused by its name, and the run ends as it would have.

``SECATEURS_DAMAGED`` names a file of results to go on from; ``pytest -m slow -n 0 -s`` shows the progress.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch

from spaces.errors import SecateursError
from spaces.files.json_file import read_record
from spaces.files.tensor_file import unpack_tensors
from tests.integration.damaged_folders import Damage, Folders
from tests.paths import REPOSITORY
from tests.results_file import known


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Return whole and half-made run folders."""
    return Folders(tmp_path_factory.mktemp("runs"))


ENDED = [
    ("checkpoints/1-search/result/network.safetensors", "flipped"),
    ("checkpoints/0-train/result/key.json", "gone"),
    ("checkpoints/measurements.json", "flipped"),
    ("best/weights.safetensors", "flipped"),
    ("config.yaml", "zeros"),
    ("environment.json", "gone"),
    ("study.journal", "overwritten"),
]
"""Damage to a run that has ended; the slow test tries every file and state."""


def test_a_damaged_piece_is_named_and_made_again(folders: Folders, tmp_path: Path) -> None:
    for file, way in ENDED:
        outcome = Damage("schedule", "ended", file, way, "run", 0).outcome(folders, tmp_path / "case")
        assert (outcome.wrong, outcome.words) == ("", "same and told"), f"{file} {way}: {outcome}"


def test_a_damaged_network_is_not_loaded_and_a_damaged_report_not_shown(folders: Folders, tmp_path: Path) -> None:
    for file, command in (("best/weights.safetensors", "load"), ("best/architecture.json", "load"), ("report.json", "report")):
        outcome = Damage("schedule", "ended", file, "flipped", command, 0).outcome(folders, tmp_path / "case")
        assert (outcome.wrong, outcome.words) == ("", "refused"), f"{file}: {outcome}"


def test_what_nothing_else_tells_is_refused_with_its_cost(folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    shutil.copytree(folders.template("schedule", "ended"), folder)
    for name in ("config.yaml", "environment.json"):
        (folder / name).unlink()
        (folder / name).touch()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(
        SecateursError, match=r"environment\.json.*config\.yaml.*another name.*Deleting .* costs all of the run"
    ):
        folders.command("run", "schedule", folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def without_digests(folder: Path) -> None:
    """Make the files of a run folder those of a version that knew no digests."""
    for path in folder.rglob("*.json"):
        path.write_text(json.dumps(read_record(path), indent=1) + "\n")
    for path in folder.rglob("*.safetensors"):
        tensors, data = unpack_tensors(path.read_bytes(), "")
        data.pop("key", None)
        path.write_bytes(safetensors.torch.save(tensors, {"data": json.dumps(data)} if data else None))
    lines = [json.loads(line) for line in (folder / "study.journal").read_text().splitlines()]
    for line in lines:
        for attributes in (line, line.get("user_attrs", {})):
            attributes.pop("digest", None)
    (folder / "study.journal").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = folder / "config.yaml"
    config.write_text(config.read_text().partition("\n")[2])


def test_a_folder_from_before_digests_is_gone_on_with_and_warned_of_once(folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    shutil.copytree(folders.template("schedule", "ended"), folder)
    without_digests(folder)
    for path in (folder / "checkpoints" / "1-search" / "result" / "network.safetensors", folder / "report.json"):
        path.unlink()
    found, said = folders.command("run", "schedule", folder)
    right = folders.right("schedule")
    assert found[0] == right[0]
    assert found[2] == right[2]
    (line,) = [line for line in said.splitlines() if "digest" in line]
    assert "environment.json has no digest: it is from an earlier version" in line


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_whatever_is_damaged_no_other_result_comes_without_a_word(tmp_path: Path) -> None:
    results = os.environ.get("SECATEURS_DAMAGED", str(tmp_path / "results.jsonl"))
    command = [sys.executable, "-m", "tests.integration.damaged_trials", results]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0
    assert len(known(Path(results), "trial")) >= 200
