"""The outcome of ``compress()``, and how it is shown: a table in a terminal, a table with bars and a picture in a notebook."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from search.output.unbroken import unbroken
from search.report.summary import Row, summary_rows, summary_table, target_line

_WIDTH = 100
"""Columns of the printed table."""
_STYLE = "text-align:left;padding:2px 10px"


@dataclass(frozen=True)
class Compressed:
    """The outcome of a compression; printed it is a short table.

    Attributes:
        model: The smaller network, in evaluation mode on the CPU.
        report: The content of report.json: ``reference`` and ``result``, the front, the baselines.
        folder: The run folder, with report.html and ``best/``.
    """

    model: nn.Module
    report: dict[str, Any]
    folder: Path

    def __str__(self) -> str:
        """Return the table of the network before and after, and the run folder."""
        text = io.StringIO()
        console = Console(file=text, width=_WIDTH, color_system=None, force_terminal=False, force_jupyter=False)
        console.print(summary_table(self.report, self.folder.name, _WIDTH))
        lines = [line for line in (target_line(self.report), f"folder: {self.folder}") if line]
        return text.getvalue() + "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the same for a notebook, each cost with a bar of its share of what it was, and the picture by blocks."""
        rows = summary_rows(self.report, brief=True)
        head = "".join(f'<th style="{_STYLE}">{name}</th>' for name in ("", "before", "after", "left", "change", "target"))
        body = "".join(_html_row(row) for row in rows)
        name = escape(str(self.report.get("name", self.folder.name)))
        lines = "".join(f"{escape(line)}<br>" for line in target_line(self.report).splitlines())
        picture = _picture(self.folder / "figures" / "blocks.png")
        return f"<div><b>{name}</b><table><tr>{head}</tr>{body}</table>{lines}folder: {escape(str(self.folder))}{picture}</div>"


def _html_row(row: Row) -> str:
    cells = [row.label, row.before, row.after, None, row.change, row.limit]
    shown = [_bar(row.share) if cell is None else escape(unbroken(cell)) for cell in cells]
    return "<tr>" + "".join(f'<td style="{_STYLE}">{cell}</td>' for cell in shown) + "</tr>"


def _bar(share: float | None) -> str:
    """Return a bar of a share of what there was, as a picture; nothing for a score."""
    if share is None:
        return ""
    width, filled = 120, max(1, round(120 * min(share, 1.0)))
    title = f"{share * 100:.1f} % left"
    return (
        f'<svg width="{width}" height="12" role="img" aria-label="{title}"><title>{title}</title>'
        f'<rect width="{width}" height="12" rx="2" fill="#c9d3dc"/>'
        f'<rect width="{filled}" height="12" rx="2" fill="#1f6f8b"/></svg>'
    )


def _picture(path: Path) -> str:
    """Return a figure of the report as a picture inside the page; nothing where the report has none."""
    if not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    words = "the network by blocks, before and after"
    return f'<img alt="{words}" style="display:block;max-width:100%;width:700px" src="data:image/png;base64,{content}">'
