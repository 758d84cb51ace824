"""Fixtures of the report's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the figures of reports and render none of them, which takes seconds: for tests that do not look into a picture."""
    backends = "matplotlib.backends"
    monkeypatch.setattr(f"{backends}.backend_agg.FigureCanvasAgg.print_png", lambda self, file, **_: file.write(b"\x89PNG"))
    monkeypatch.setattr(f"{backends}.backend_svg.FigureCanvasSVG.print_svg", lambda self, file, **_: file.write("<svg ></svg>"))
