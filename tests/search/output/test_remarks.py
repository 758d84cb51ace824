"""Remarks on networks are told once, and other warnings go on."""

from __future__ import annotations

import warnings

import pytest

from search.output.remarks import network_remarks
from spaces.errors import NetworkWarning


def test_each_remark_is_told_once_and_other_warnings_stay_warnings() -> None:
    told: list[str] = []

    def warn() -> None:
        with network_remarks(told.append):
            for text in ("first", "second", "first"):
                warnings.warn(text, NetworkWarning, stacklevel=1)
            warnings.warn("another", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="another") as others:
        warn()
    assert told == ["first", "second"]
    assert len(others) == 1
