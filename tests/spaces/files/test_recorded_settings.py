"""Settings in the form of a record that lacks options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from spaces.files.recorded_settings import as_recorded


@dataclass(frozen=True)
class Inner:
    size: int = 3
    shape: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    epochs: int
    inner: Inner = field(default_factory=Inner)
    extra: Inner | None = None


@pytest.mark.parametrize(
    ("settings", "recorded", "found"),
    [
        (Outer(2), {"epochs": 1}, {"epochs": 2}),
        (Outer(2), {"epochs": 1, "inner": {"size": 3}}, {"epochs": 2, "inner": {"size": 3}}),
        (Outer(2, Inner(4)), {"epochs": 1}, {"epochs": 2, "inner": {"size": 4, "shape": (1, 2)}}),
        (Outer(2, Inner(shape=(2,))), {"epochs": 1, "inner": {}}, {"epochs": 2, "inner": {"shape": (2,)}}),
        (Outer(2, extra=Inner()), {"epochs": 1}, {"epochs": 2, "extra": {"size": 3, "shape": (1, 2)}}),
        (Outer(2, extra=None), {"epochs": 1, "extra": {"size": 1}}, {"epochs": 2, "extra": None}),
        # What has no default is told, known or not.
        (Outer(2), {}, {"epochs": 2}),
    ],
)
def test_options_that_a_record_lacks_and_that_are_at_their_default_are_left_out(
    settings: Outer, recorded: dict[str, Any], found: dict[str, Any]
) -> None:
    assert as_recorded(settings, recorded) == found
