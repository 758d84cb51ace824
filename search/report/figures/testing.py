"""Contract of a figure, for this project's figures and for a person's own."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from search.report.figures.base import SECTIONS, Figure
from search.report.figures.pictures import Picture, render_drawing
from search.report.figures.style import STYLE


def check_figure(figure_class: type[Figure], reports: Iterable[Mapping[str, Any]]) -> None:
    """Check that a figure keeps the contract of :class:`.Figure`.

    Args:
        figure_class: The figure.
        reports: Contents of report.json, at least one of which the figure applies to.

    Raises:
        AssertionError: It does not; the message says in which point.
    """
    assert re.fullmatch(r"[a-z][a-z0-9_]*", figure_class.name), f"name: expected a file name, got {figure_class.name!r}"
    assert figure_class.title.strip(), "title: expected words for people who do not see the figure"
    assert figure_class.section in ("", *SECTIONS), f"section: expected one of {SECTIONS} or none, got {figure_class.section!r}"
    assert figure_class.__doc__, "expected a docstring"
    figure = figure_class()
    assert figure.applies({}) is False, "applies: expected False for a report without data"
    drawn = 0
    for report in reports:
        before = copy.deepcopy(dict(report))
        if figure.applies(report):
            first, second = _pictures(figure, report), _pictures(figure, report)
            assert first, "draw: expected a drawing of a report that the figure applies to"
            assert first == second, "draw: expected the same drawing of the same report"
            names = [picture.name for picture in first]
            assert len(set(names)) == len(names), f"draw: expected a suffix of its own for each drawing, got {names}"
            drawn += 1
        assert dict(report) == before, "expected a report that is left as it was"
    assert drawn, "expected a report that the figure applies to among those given"


def _pictures(figure: Figure, report: Mapping[str, Any]) -> list[Picture]:
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        return [render_drawing(figure, drawing) for drawing in figure.draw(report)]
