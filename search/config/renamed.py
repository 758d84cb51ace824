"""Words of configurations and reports that were renamed, so that an old one is told or read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED_OPTIONS = {"yardsticks": "baselines"}
"""Options of a configuration: the old name and the new one."""

_RENAMED_RESULTS = {
    "baseline": "reference",
    "yardsticks": "baselines",
    "yardstick_seconds": "baseline_seconds",
    "yardstick_histories": "baseline_histories",
}


def with_present_names(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a report.json, its keys renamed where an earlier version wrote it."""
    if "reference" in report or "baseline" not in report:
        return dict(report)
    renamed: dict[str, Any] = _rename(report)
    return renamed


def _rename(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_RENAMED_RESULTS.get(key, key): _rename(entry) for key, entry in value.items()}
    return [_rename(entry) for entry in value] if isinstance(value, list) else value
