"""Pictures of all registered figures: SVG that follows the colors of the page, and PNG for other uses."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from search.report.figures import FIGURES
from search.report.figures.base import Drawing, Figure
from search.report.figures.style import CSS_VARIABLES, STYLE, WIDTH
from spaces.registry import members, resolve


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes:
        name: File name without its ending.
        title: Title in words.
        section: Section of the page.
        stage: Name of the stage that it is about; empty for the whole run.
        svg: For the page, with the page's color variables.
        png: For ``figures/``.
        wide: True for a figure that is wider than most, and so not made to fit a small screen.
    """

    name: str
    title: str
    section: str
    stage: str
    svg: str
    png: bytes
    wide: bool = False


def draw(report: Mapping[str, Any]) -> list[Picture]:
    """Return the pictures of every registered figure that applies to ``report``, in the order of the registry."""
    import matplotlib as mpl

    figures: list[Figure] = [resolve(path)() for path in members(FIGURES, "figure").values()]
    with mpl.rc_context(STYLE):
        return [
            render_drawing(figure, drawing) for figure in figures if figure.applies(report) for drawing in figure.draw(report)
        ]


def render_drawing(figure: Figure, drawing: Drawing) -> Picture:
    """Return a drawing of ``figure`` as SVG and PNG; the drawing is of no use afterwards."""
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from matplotlib.figure import SubFigure

    name, canvas = f"{figure.name}{drawing.suffix}", drawing.canvas
    png, svg, wide = io.BytesIO(), io.StringIO(), canvas.get_figwidth() > 1.4 * WIDTH
    # `savefig` would draw each of the two twice, once for the layout alone.
    canvas.set_dpi(120)
    FigureCanvasAgg(canvas).print_png(png)  # type: ignore[no-untyped-call]
    canvas.set_layout_engine("none")
    for part in canvas.findobj():
        if isinstance(part, Axes | Canvas | SubFigure):
            part.patch.set(facecolor="none", edgecolor="none")
    with mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(canvas).print_svg(svg, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    text = svg.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in CSS_VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    for gid, tips in drawing.tips.items():
        text = _with_tips(text, gid, tips)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{figure.title}" ', 1)
    return Picture(name, figure.title, figure.section, drawing.stage, text, png.getvalue(), wide)


def _with_tips(svg: str, gid: str, tips: Sequence[str]) -> str:
    """Return a drawing whose marks in the group ``gid`` have titles, which browsers show beside the pointer."""
    start = svg.find(f'<g id="{gid}">')
    if start < 0:
        return svg
    end = svg.find('<g id="', start + 1)
    head, marks, tail = svg[:start], svg[start:end], svg[end:]
    defined, closing, drawn = marks.rpartition("</defs>")
    words: Iterator[str] = iter(tips)

    def titled(mark: re.Match[str]) -> str:
        return f"<{mark[1]}{mark[2]}><title>{escape(next(words, ''))}</title></{mark[1]}>"

    return f"{head}{defined}{closing}{re.sub(r'<(use|path)([^>]*)/>', titled, drawn)}{tail}"
