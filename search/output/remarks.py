"""Remarks on networks, which the engine gives as warnings, as lines of a program, without a place in our code."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from spaces.errors import NetworkWarning


@contextmanager
def network_remarks(tell: Callable[[str], object]) -> Iterator[None]:
    """Hand every :class:`NetworkWarning` to ``tell``, each text once; other warnings take their usual way."""
    told: set[str] = set()
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if category is not NetworkWarning:
                usual(message, category, *rest, **named)
            elif str(message) not in told:
                told.add(str(message))
                tell(str(message))

        warnings.simplefilter("always", NetworkWarning)
        warnings.showwarning = show
        yield
