"""The terminal at 60, 80 and 140 columns, as an emulator shows it, and the same output without a terminal."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from search.options import show_options
from search.output import progress
from search.output.progress import Log
from search.pipeline.inspection import registered, show_registered
from search.report.summary import summary_table
from tests.search.report.report_sample import sample

pyte = pytest.importorskip("pyte", reason="pyte, an emulator of terminals, is in the group dev: uv sync")

WIDTHS = (60, 80, 140)


class Terminal:
    """A console on an emulated screen.

    Args:
        columns: Width of the screen.
    """

    def __init__(self, columns: int) -> None:
        self._file = io.StringIO()
        self._screen = pyte.HistoryScreen(columns, 40, history=2000)
        self._stream = pyte.Stream(self._screen)
        self._seen = 0
        self.console = Console(file=self._file, force_terminal=True, width=columns, height=40, legacy_windows=False)

    def lines(self) -> list[str]:
        """Return the lines on the screen now, those that have scrolled off first."""
        text = self._file.getvalue()
        self._stream.feed(text[self._seen :].replace("\n", "\r\n"))
        self._seen = len(text)
        above = ["".join(row[column].data for column in range(self._screen.columns)) for row in self._screen.history.top]
        return [line.rstrip() for line in [*above, *self._screen.display] if line.strip()]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: found[0])
    return found


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_bar_has_name_bar_count_and_rest_on_one_line_and_ends_as_a_line(columns: int, now: list[float]) -> None:
    terminal = Terminal(columns)
    label = "1-search (uniform): reconstruction of a network with a long name"
    with Log(None, terminal.console) as log:
        log.write("starting run")
        with log.bar(label, 400) as bar:
            bar.update(0)
            now[0] = 30.0
            bar.update(100, "best divergence 0.0123 macs 358 k, 30 s of trials, 1/1 workers busy")
            for _ in range(50):  # Frames are drawn by a thread, ten a second.
                if frame := [line for line in terminal.lines() if "100/400" in line]:
                    break
                time.sleep(0.1)
        log.write("done")
    lines = terminal.lines()
    assert len(frame) == 1
    assert frame[0].startswith(label[:11])
    assert "━" in frame[0]
    assert "ETA 1 min 30 s" in frame[0]
    assert len(frame[0]) <= columns
    assert lines[0] == "starting run"
    assert lines[-1] == "done"
    assert not [line for line in lines if "ETA" in line]
    finished = " ".join(lines[1:-1])
    assert "100 of at most 400 best divergence 0.0123 macs 358 k" in finished.replace("  ", " ")


def test_finished_lines_are_those_of_a_pipe(now: list[float]) -> None:
    piped, terminal = io.StringIO(), Terminal(140)
    for console in (Console(file=piped, width=140), terminal.console):
        with Log(None, console) as log:
            for label in ("0-train", "1-search"):
                with log.bar(label, 2) as bar:
                    bar.update(2, "top1 0.9833")
    assert (
        terminal.lines()
        == piped.getvalue().splitlines()
        == [f"{label}: 2/2 top1 0.9833 (0.0 s)" for label in ("0-train", "1-search")]
    )


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("name", ["", "search", "evolution"])
def test_lists_fit_and_cut_nothing_off(columns: int, name: str) -> None:
    terminal = Terminal(columns)
    if name:
        show_options(name, terminal.console)
    else:
        show_registered(registered(), terminal.console)
    lines = terminal.lines()
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if "…" in line]
    wanted = {"": ("channel_mask", "integer_program"), "search": ("target", "baselines"), "evolution": ("children", "switches")}
    for word in wanted[name]:
        assert any(word in line for line in lines), word


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_summary_fits_and_has_every_figure(columns: int) -> None:
    terminal = Terminal(columns)
    report = {**sample(trials=24), "targets": {"macs": {"text": "<= 40%", "limit": 12.4e6, "met": True}}}
    terminal.console.print(summary_table(report, "run", columns))
    lines = terminal.lines()
    text = " ".join(lines)
    assert max(map(len, lines)) <= columns
    assert "…" not in text
    for figure in ("31 M", "12.4 M", "93.82", "93.61", "2.51x"):
        assert figure in text, figure
