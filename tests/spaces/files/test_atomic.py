from __future__ import annotations

import os
from pathlib import Path

import pytest

from spaces.errors import error_line, first_line
from spaces.files.atomic import replace_file


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_a_file_takes_the_permissions_of_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "deep" / "file", b"one")
        replace_file(tmp_path / "deep" / "file", b"two")
    finally:
        os.umask(before)
    assert (tmp_path / "deep" / "file").read_bytes() == b"two"
    assert (tmp_path / "deep" / "file").stat().st_mode & 0o777 == mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_an_error_in_one_line() -> None:
    assert first_line(ValueError("\n  no such layer\nmore")) == "no such layer"
    assert error_line(ValueError("no such layer\nmore")) == "ValueError: no such layer"
    assert first_line(KeyboardInterrupt()) == error_line(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(first_line(ValueError("x" * 1000))) == 300
