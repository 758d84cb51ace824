"""Figures that stay in one piece, in texts and in tables for a terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from search.output.unbroken import NO_BREAK, FigureTable, unbroken


@pytest.mark.parametrize(
    "figure",
    [
        "98.44 ± 0.12 %",
        "0.8100 ± 0.0123",
        "0.25 ms ± 0.01 ms",
        "1.2e-03 ± 4.5e-05",
        "+0.50 ± 0.10",
        "1.09 MB",
        "40.8 M",
        "12 B",
        "1 min",
        "<= 0.25 ms",
        ">= -1",
    ],
)
def test_a_figure_has_no_place_to_break(figure: str) -> None:
    whole = unbroken(figure)
    assert " " not in whole
    assert whole.replace(NO_BREAK, " ") == figure
    assert unbroken(f"a {figure}, b").split(" ") == ["a", f"{whole},", "b"]


@pytest.mark.parametrize("text", ["3 of 4 stages", "2 Model", "trial 7 scored", "1 step", "layer 1 s-shaped", "± is the error"])
def test_other_words_break_as_they_did(text: str) -> None:
    assert unbroken(text) == text


def drawn(width: int, cells: list[str]) -> list[list[str]]:
    """Return the cells of every line of a table."""
    table = FigureTable("a run", ["", "before", "after", "change", "target"], left=(0, 4))
    table.add_row(cells)
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].strip() == "a run"
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


ROW = ["top-1 accuracy [b]", "93.82 ± 0.24 %", "93.61 ± 0.25 %", "-0.21 points", "<= 0.0385 ms, NOT met"]


@pytest.mark.parametrize("width", [80, 92, 100, 140])
def test_a_table_breaks_beside_figures(width: int) -> None:
    lines = drawn(width, ROW)
    assert lines[0][1:3] == ROW[1:3]
    assert lines[0][4].startswith("<= 0.0385 ms,")
    assert [" ".join(filter(None, column)) for column in zip(*lines, strict=True)] == ROW


def test_a_table_too_narrow_for_them_breaks_figures_and_no_word() -> None:
    lines = drawn(60, ROW)
    assert [" ".join(filter(None, column)) for column in zip(*lines, strict=True)] == ROW


def test_no_letter_is_lost_where_not_even_words_fit() -> None:
    lines = drawn(30, ROW)
    shown = "".join("".join(column) for column in zip(*lines, strict=True))
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", "".join(ROW))
