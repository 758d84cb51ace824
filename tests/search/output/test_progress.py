import io
import logging
import re
from pathlib import Path

import pytest
from rich.console import Console

from search.output import progress
from search.output.progress import Log, duration


def test_lines_go_to_the_console_and_the_log(tmp_path: Path) -> None:
    shown = io.StringIO()
    with Log(tmp_path / "log.txt", Console(file=shown)) as log:
        log.write("[hello] " + "x" * 200)
        log.write("quiet", logging.DEBUG)
    assert shown.getvalue() == "[hello] " + "x" * 200 + "\n"
    written = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1][:7] for line in written] == ["[hello]", "quiet"]


def test_plain_lines_are_few_and_tell_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    shown = io.StringIO()
    with Log(tmp_path / "log.txt", Console(file=shown)) as log, log.bar("search", 100) as bar:
        for done in range(101):
            bar.update(done, f"best {done}")
    lines = shown.getvalue().splitlines()
    assert 5 < len(lines) < 101
    assert "ETA" in lines[0]
    assert lines[-1].startswith("search: 100/100 best 100 (")


def test_what_was_done_before_does_not_count_for_the_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Log(None, None).bar("search", 100) as bar:
        bar.update(80)
        assert bar.eta == ""
        now = 10.0
        bar.update(90)
        assert bar.eta == "ETA 10 s"


def test_what_may_end_early_is_told_as_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = io.StringIO()
    with Log(None, Console(file=shown)).bar("search", 100, at_most=True) as bar:
        bar.update(0)
        now = 9.0
        bar.update(45)
        assert bar.eta == "ETA at most 11 s"
    assert shown.getvalue() == "search: 45 of at most 100  (9.0 s)\n"


def test_a_bar_on_a_terminal_leaves_no_trace_of_its_frames(tmp_path: Path) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True)
    with Log(tmp_path / "log.txt", console) as log, log.bar("train", 2) as bar:
        bar.update(2, "loss 0.5")
    assert "train" in shown.getvalue()
    assert "train: 2/2 loss 0.5" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize("label", ["2-search", "3-retrain (global_magnitude)"])
@pytest.mark.parametrize("width", [60, 80, 140])
def test_name_bar_count_and_eta_are_on_the_screen(width: int, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=width, color_system=None)
    with Log(None, console).bar(label, 320, at_most=True) as bar:
        bar.update(0)
        now = 9.0
        bar.update(160, "best top1 0.9667 macs 356 k, 2.7 s of trials, 4 workers busy")
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", shown.getvalue()).replace("\r", "\n").splitlines()
    line = next(frame.rstrip() for frame in frames if "160/320" in frame)
    assert len(line) <= width
    assert line.startswith(label if width >= 80 else label[:11])
    assert "━" * 4 in line
    assert "160/320" in line
    assert "ETA at most 9.0 s" in line
    assert ("best top1" in line) == (width >= 80 or label == "2-search")
    assert shown.getvalue().splitlines()[-1].endswith("2.7 s of trials, 4 workers busy (9.0 s)")


def test_finished_lines_stay_on_a_terminal_as_they_do_in_a_file() -> None:
    screens = []
    for terminal in (True, False):
        shown = io.StringIO()
        with Log(None, Console(file=shown, force_terminal=terminal, color_system=None)) as log:
            for label in ("0-train", "3-retrain"):
                with log.bar(label, 2) as bar:
                    bar.update(2, "loss 0.5")
        lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", line) for line in shown.getvalue().splitlines()]
        screens.append([line for line in lines if " loss 0.5 (" in line])
    assert screens[0] == screens[1]
    assert len(screens[0]) == 2


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
