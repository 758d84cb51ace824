"""Measurements of a report that failed: each is named, and the report is written with all others."""

from __future__ import annotations

import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from search.output.disk_errors import is_disk_error
from search.output.exhaustion import exhausted
from search.output.finite import without_non_finite
from spaces.errors import error_line
from spaces.execution.failed_layer import failed_layer

T = TypeVar("T")

Say = Callable[[str, int], None]
"""Takes a line for the log, and its level in the standard library's logging."""


class Failures:
    """Failed measurements of one run.

    Args:
        say: Told of each.

    Attributes:
        rows: ``what`` could not be measured, and the ``error``, for report.json.
    """

    def __init__(self, say: Say) -> None:
        """Start without any."""
        self._say = say
        self.rows: list[dict[str, str]] = []

    def attempt(self, what: str, measured: Callable[[], T], instead: T) -> T:
        """Return what ``measured`` returns; where it raises, note the error and return ``instead``.

        Not caught is an error of the system, which has no memory, files or room on the disk: the same command may do better.

        Args:
            what: The network and the kind of measurement, in words.
            measured: The measurement.
            instead: Returned in its place.
        """
        try:
            return measured()
        except Exception as error:
            if exhausted(error) or is_disk_error(error):
                raise
            layer = failed_layer(error)
            self._note(what, f"{error_line(error)}{f' (in layer {layer})' if layer else ''}")
            self._say("".join(traceback.format_exception(error)), logging.DEBUG)
            return instead

    def finite(self, what: str, data: T) -> T:
        """Return JSON data with null for every number that is not finite, and note these.

        Args:
            what: Name of the data in words.
            data: The data; left unchanged.
        """
        found, places = without_non_finite(data)
        alike: Mapping[tuple[str, str], int] = Counter((re.sub(r"\.\d+\b", ".*", place), str(value)) for place, value in places)
        for (place, value), count in alike.items():
            times = f", {count} times" if count > 1 else ""
            self._note(": ".join(filter(None, (what, place))), f"expected a finite number, got {value}{times}")
        cleaned: T = found
        return cleaned

    def _note(self, what: str, error: str) -> None:
        self.rows.append({"what": what, "error": error})
        self._say(f"could not be measured: {what}: {error}", logging.WARNING)


def failures_of(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the failed measurements of a report.json: what, and the error."""
    return [(str(row.get("what", "")), str(row.get("error", ""))) for row in report.get("failures") or []]
