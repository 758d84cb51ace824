import json
from pathlib import Path
from typing import Any

import pytest

from search.run.run_folder import RunFolder, RunFolderError

CONFIG: dict[str, Any] = {"name": "r", "seed": 0, "execution": {"workers": 1}, "stages": [{"train": {"epochs": 1}}]}


def test_a_new_folder_is_adopted_and_resumed(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "r") as folder:
        assert not folder.resumed
        assert folder.adopt(CONFIG, "abc") == []
    environment = json.loads((tmp_path / "r" / "environment.json").read_text())
    assert environment["versions"]["torch"]
    with RunFolder(tmp_path / "r") as folder:
        assert folder.resumed
        assert folder.adopt({**CONFIG, "execution": {"workers": 4}}, "abc") == [
            "execution.workers was 1 and is now 4",
        ]


def test_another_configuration_is_refused_by_its_field(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "r") as folder:
        folder.adopt(CONFIG, "abc")
    before = (tmp_path / "r" / "config.yaml").read_text()
    with RunFolder(tmp_path / "r") as folder, pytest.raises(RunFolderError, match=r"stages\.0\.train\.epochs was 1 and is"):
        folder.adopt({**CONFIG, "stages": [{"train": {"epochs": 2}}]}, "abc")
    assert (tmp_path / "r" / "config.yaml").read_text() == before


def test_other_data_are_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "r") as folder:
        folder.adopt(CONFIG, "abc")
    with RunFolder(tmp_path / "r") as folder, pytest.raises(RunFolderError, match=r"task.* had fingerprint abc"):
        folder.adopt(CONFIG, "xyz")


def test_a_changed_library_is_told(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "r") as folder:
        folder.adopt(CONFIG, "abc")
    path = tmp_path / "r" / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "versions": {"torch": "1.0"}}))
    with RunFolder(tmp_path / "r") as folder:
        assert any(change.startswith("torch was 1.0") for change in folder.adopt(CONFIG, "abc"))


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "r"), pytest.raises(RunFolderError, match="in use by another process"):
        RunFolder(tmp_path / "r")
    RunFolder(tmp_path / "r").close()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match=r"thesis\.tex"):
        RunFolder(tmp_path / "r")
    assert [entry.name for entry in (tmp_path / "r").iterdir()] == ["thesis.tex"]
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "r" / "thesis.tex")


def test_nothing_is_left_of_a_run_that_never_began(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no data"), RunFolder(tmp_path / "r"):
        raise RunFolderError("no data")
    assert not (tmp_path / "r").exists()


def test_a_kill_before_the_configuration_was_written_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "environment.json").write_text("{}")
    with RunFolder(tmp_path / "r") as folder:
        assert folder.adopt(CONFIG, "abc") == []
