import json
import threading
from pathlib import Path

import pytest

from search.output import atomic


def folder_with(path: Path, text: str) -> Path:
    path.mkdir()
    for name in ("first", "second"):
        (path / name).write_text(text)
    return path


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "data.json"
    atomic.write_json(path, {"a": 1})
    monkeypatch.setattr(atomic.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        atomic.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["data.json"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "data.json", {"a": float("nan")})


@pytest.mark.parametrize("exchange", [True, False])
def test_replace_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    best = tmp_path / "best"
    atomic.replace_folder(folder_with(tmp_path / "one", "1"), best)
    atomic.replace_folder(folder_with(tmp_path / "two", "2"), best)
    assert (best / "first").read_text() == "2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["best"]


def test_a_reader_always_finds_a_whole_folder(tmp_path: Path) -> None:
    best = tmp_path / "best"
    atomic.replace_folder(folder_with(tmp_path / "new", "0"), best)
    if not atomic._exchange(folder_with(tmp_path / "a", ""), folder_with(tmp_path / "b", "")):
        pytest.skip("this file system can't exchange folders in one step")
    missing = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if not best.exists():
                missing.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(30):
        atomic.replace_folder(folder_with(tmp_path / "new", str(number)), best)
    done.set()
    reader.join()
    assert not missing


def test_recover_folder_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    folder_with(tmp_path / ".best.old", "1")
    atomic.recover_folder(tmp_path / "best")
    assert (tmp_path / "best" / "first").read_text() == "1"
    folder_with(tmp_path / ".best.old", "0")
    atomic.recover_folder(tmp_path / "best")
    assert (tmp_path / "best" / "first").read_text() == "1"
    assert not (tmp_path / ".best.old").exists()
