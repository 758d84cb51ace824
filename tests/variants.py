"""Variants of one test, of which the default suite runs few and ``-m slow`` the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(values: Iterable[Any], count: int = 1) -> list[Any]:
    """Return values of a parameter of one test, all behind the first ``count`` of them marked slow."""
    return [value if place < count else pytest.param(value, marks=pytest.mark.slow) for place, value in enumerate(values)]
