"""The lock of a run folder, the leftovers of killed runs, and the permissions of all files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from search.output.atomic import write_json
from search.run.best import Best
from search.run.network import Network
from search.run.run_folder import RunFolder, RunFolderError
from spaces.networks import digits_cnn


def test_the_lock_survives_the_deletion_of_its_file(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "r"):
        (tmp_path / "r" / ".lock").unlink()
        for _ in range(2):
            with pytest.raises(RunFolderError, match="in use"):
                RunFolder(tmp_path / "r")
    with RunFolder(tmp_path / "r"):
        pass


def test_a_lock_that_was_refused_leaves_no_open_files(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "r"):
        before = list(Path("/proc/self/fd").iterdir())
        for _ in range(3):
            with pytest.raises(RunFolderError):
                RunFolder(tmp_path / "r")
        assert len(list(Path("/proc/self/fd").iterdir())) == len(before)


def test_leftovers_of_a_killed_run_are_removed_at_the_next_start(tmp_path: Path) -> None:
    folder, outside = tmp_path / "r", tmp_path / "outside"
    with RunFolder(folder) as opened:
        opened.adopt({"name": "r"}, "abc")
    outside.mkdir()
    for path in (folder / ".report.json.0a1b2c3d", folder / "checkpoints" / "2-search" / ".key.json.ffffffff"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("torn")
    (folder / ".best.0a1b2c3d.new").mkdir()
    (folder / ".best.0a1b2c3d.new" / "weights.safetensors").write_text("torn")
    kept = [folder / ".mine", folder / "notes.0a1b2c3d", outside / ".report.json.0a1b2c3d"]
    for path in kept:
        path.write_text("kept")
    (folder / "link").symlink_to(outside)
    with RunFolder(folder):
        pass
    assert all(path.exists() for path in kept)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == [".lock", ".mine", "config.yaml", "environment.json", "notes.0a1b2c3d"]


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755), (0o002, 0o664, 0o775)])
def test_files_and_folders_take_the_umask(umask: int, file: int, folder: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with RunFolder(tmp_path / "r") as opened:
            opened.adopt({"name": "r"}, "abc")
            write_json(tmp_path / "r" / "report.json", {})
            Best(opened.best, {}, {}).replace(Network(digits_cnn(width=4)), {})
    finally:
        os.umask(before)
    for path in (tmp_path / "r").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (folder if path.is_dir() else file), path
