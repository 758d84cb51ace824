import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from search.output.log_records import PACKAGE
from search.output.progress import Log


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Check that a test leaves no handler on a logger that others can find, and set the level back."""
    before = [*PACKAGE.handlers], [*logging.getLogger().handlers]
    yield
    PACKAGE.setLevel(logging.NOTSET)
    assert ([*PACKAGE.handlers], [*logging.getLogger().handlers]) == before


def texts(path: Path) -> list[str]:
    return [line.split(" ", 1)[1] for line in path.read_text().splitlines()]


def write_all(folder: Path) -> str:
    """Write a line of each level, and return what a console shows."""
    shown = io.StringIO()
    with Log(folder / "log.txt", Console(file=shown)) as log:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            log.write(logging.getLevelName(level), level)
    return shown.getvalue()


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (logging.NOTSET, "INFO WARNING"),
        (logging.DEBUG, "DEBUG INFO WARNING"),
        (logging.WARNING, "WARNING"),
        (logging.ERROR, ""),
    ],
)
def test_the_level_of_search_counts_for_the_console_and_not_for_the_file(tmp_path: Path, level: int, shown: str) -> None:
    PACKAGE.setLevel(level)
    assert write_all(tmp_path).split() == shown.split()
    assert texts(tmp_path / "log.txt") == ["DEBUG", "INFO", "WARNING"]


def test_a_line_of_the_file_begins_with_its_second(tmp_path: Path) -> None:
    write_all(tmp_path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d DEBUG", (tmp_path / "log.txt").read_text().splitlines()[0])


def test_two_runs_one_after_the_other_write_each_line_once(tmp_path: Path) -> None:
    assert [write_all(tmp_path), write_all(tmp_path)] == ["INFO\nWARNING\n"] * 2
    assert texts(tmp_path / "log.txt") == ["DEBUG", "INFO", "WARNING"] * 2


def test_runs_side_by_side_keep_their_lines_apart(tmp_path: Path) -> None:
    with Log(tmp_path / "a", None) as first, Log(tmp_path / "b", None) as second:
        first.write("of a")
        second.write("of b")
    assert (texts(tmp_path / "a"), texts(tmp_path / "b")) == (["of a"], ["of b"])


def test_handlers_of_a_program_get_each_record_once_as_far_as_its_level_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_all(tmp_path)
    assert caplog.messages == ["WARNING"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        write_all(tmp_path)
    assert caplog.messages == ["INFO", "WARNING"]
    assert {(record.name, record.module) for record in caplog.records} == {("search", "test_log_records")}
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="search"):
        write_all(tmp_path)
    assert caplog.messages == ["DEBUG", "INFO", "WARNING"]


def test_without_handlers_of_a_program_nothing_is_shown_but_on_the_console(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(logging.getLogger(), "handlers", [])
        with Log(None, None) as log:
            log.write("nobody listens", logging.WARNING)
    assert capsys.readouterr() == ("", "")


def test_passwords_are_hidden_from_every_handler(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shown = io.StringIO()
    with Log(tmp_path / "log.txt", Console(file=shown)) as log:
        log.write("no answer of postgresql://me:secret@host/db, 100 % lost", logging.WARNING)
    for text in (shown.getvalue(), (tmp_path / "log.txt").read_text(), caplog.text):
        assert "postgresql://me:***@host/db, 100 % lost" in text
        assert "secret" not in text


def test_an_exception_leaves_no_handler(tmp_path: Path) -> None:
    shown, logs = io.StringIO(), []

    def fails() -> None:
        with Log(tmp_path / "log.txt", Console(file=shown)) as log:
            logs.append(log)
            log.write("under way")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    logs[0].write("after the end")
    assert texts(tmp_path / "log.txt") == ["under way"]
    assert shown.getvalue() == "under way\n"


def test_an_error_of_the_disk_ends_the_run() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left"), Log(full, None) as log:
        log.write("lost")


def test_a_bar_is_not_drawn_where_only_warnings_are_asked_for(tmp_path: Path) -> None:
    PACKAGE.setLevel(logging.WARNING)
    shown = io.StringIO()
    with Log(tmp_path / "log.txt", Console(file=shown, force_terminal=True)) as log, log.bar("train", 2) as bar:
        bar.update(2)
    assert shown.getvalue() == ""
    assert texts(tmp_path / "log.txt")[0].startswith("train: 2/2")
