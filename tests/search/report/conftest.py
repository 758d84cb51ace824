"""Fixtures of the report's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures, which take seconds: for tests of words and tables."""
    monkeypatch.setattr("search.report.figures.pictures.draw", lambda report: [])
