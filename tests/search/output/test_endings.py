"""Ends of commands by errors: one line and an exit code; the traceback of what nobody foresaw in a log."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest

import search.__main__
import search.cli
from search.output import exhaustion
from search.output.disk_errors import system_errors
from search.output.endings import UnexpectedError, ending
from search.output.exhaustion import ExhaustedError, exhausted
from spaces.errors import SecateursError


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "secateurs"


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_a_person_s_mistake_is_told_whole() -> None:
    assert ending(SecateursError("storage: postgresql://me:secret@host/db\nis wrong")) == (
        2,
        "storage: postgresql://me:***@host/db\nis wrong",
    )


def test_the_traceback_goes_to_the_run_s_log(tmp_path: Path, state: Path) -> None:
    (tmp_path / "log.txt").write_text("starting\n")
    error = raised(UnexpectedError(tmp_path), raised(RuntimeError("a defect of ours\nat postgresql://me:secret@host/db")))
    assert ending(error) == (70, f"unexpected error: RuntimeError: a defect of ours; the traceback is in {tmp_path}/log.txt")
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("starting\n")
    assert "Traceback" in log
    assert "a defect of ours" in log
    assert "secret" not in log
    assert not state.exists()


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_without_a_run_the_traceback_goes_to_the_account_s_log(folder: str | None, tmp_path: Path, state: Path) -> None:
    defect = raised(RecursionError("deep"))
    code, text = ending(defect if folder is None else raised(UnexpectedError(tmp_path / folder), defect))
    assert (code, text) == (70, f"unexpected error: RecursionError: deep; the traceback is in {state}/log.txt")
    assert "Traceback" in (state / "log.txt").read_text()


def test_where_no_log_can_be_written(state: Path) -> None:
    state.parent.write_text("a file")
    assert ending(raised(KeyError("x"))) == (70, "unexpected error: KeyError: 'x'; no log could be written")


LACKING: list[tuple[Exception, str]] = [
    (MemoryError(), "not enough memory"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
    (RuntimeError("could not create a primitive"), "not enough memory"),
    (ImportError("libtorch.so: failed to map segment from shared object"), "not enough memory"),
    (OSError(errno.EMFILE, "Too many open files"), "no more files can be opened"),
    (RuntimeError("unable to open shared memory: Too many open files (24)"), "no more files can be opened"),
    (RuntimeError("can't start new thread"), "no more processes or threads can be started"),
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "no more processes or threads"),
]


@pytest.mark.parametrize(("error", "words"), LACKING, ids=lambda value: str(value)[:30])
def test_what_the_system_lacks_is_named(error: Exception, words: str, tmp_path: Path) -> None:
    for met in (error, raised(ValueError("wrapped"), error)):
        code, text = ending(met)
        assert code == 2
        assert words in text
        with pytest.raises(ExhaustedError, match=f"{tmp_path}.*{words}.*the same command goes on"), system_errors(tmp_path):
            raise met


def test_an_error_close_to_the_limit_of_memory_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pages = tmp_path / "statm"
    monkeypatch.setattr(exhaustion, "_STATM", pages)
    monkeypatch.setattr(exhaustion.resource, "getrlimit", lambda kind: (100 * exhaustion.resource.getpagesize(), -1))
    for used, words in ((90, None), (99, "perhaps for want of memory")):
        pages.write_text(f"{used} 5 5")
        code, text = ending(raised(RuntimeError("operator torchvision::nms does not exist")))
        assert code == 70
        assert text.startswith("unexpected error: RuntimeError: operator torchvision::nms does not exist; ")
        assert ("perhaps for want of memory" in text) == (words is not None)


def test_other_errors_lack_nothing(tmp_path: Path) -> None:
    shape = RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive")
    for error in (
        RuntimeError("a size mismatch"),
        shape,
        OSError(errno.ENOENT, "nothing there"),
        ValueError("allocate memory"),
    ):
        assert exhausted(error) is None
        with pytest.raises(type(error)), system_errors(tmp_path):
            raise error


def main(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Any:
    """Return the exit code of the program whose command raises ``error``."""

    def app(**_: Any) -> None:
        raise error

    monkeypatch.setattr(search.cli, "app", app)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as ended:
        search.__main__.main()
    return ended.value.code


def test_the_program_ends_with_one_line_and_70(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    assert main(monkeypatch, ZeroDivisionError("by nothing")) == 70
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"unexpected error: ZeroDivisionError: by nothing; the traceback is in {state}/log.txt\n"
    assert main(monkeypatch, SecateursError("no such thing")) == 2
    assert capsys.readouterr().err == "no such thing\n"
