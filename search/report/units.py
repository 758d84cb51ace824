"""The units that gave more than under a uniform choice, and those that kept more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.output.numbers import format_percent

MOST = 5
"""Units that are named on either side."""
LEAST = 0.02
"""Smallest difference of shares that is told."""


def given_and_kept(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence on the units that gave most, and one on those that kept most, against the uniform baseline.

    A unit is a group of channels, heads or blocks. Without a uniform baseline at the same groups, the comparison is with the
    share that all units keep together.
    """
    layers: Sequence[Mapping[str, Any]] = report.get("layers") or []
    if len(layers) < 2:
        return []
    whole = sum(entry["kept"] for entry in layers) / sum(entry["channels"] for entry in layers)
    uniform = {
        entry["name"]: entry["kept"] / entry["channels"]
        for entry in ((report.get("baselines") or {}).get("uniform") or {}).get("layers") or []
    }
    measured = {entry["name"] for entry in layers} <= uniform.keys()
    rows = []
    for entry in layers:
        other = uniform[entry["name"]] if measured else whole
        own = entry["kept"] / entry["channels"]
        rows.append((own - other, f"{entry['name']} ({format_percent(own)} kept, {format_percent(other)})"))
    against = "under a uniform ratio" if measured else "all units together"
    gave = [text for difference, text in sorted(rows) if difference < -LEAST][:MOST]
    kept = [text for difference, text in sorted(rows, reverse=True) if difference > LEAST][:MOST]
    found = [f"Gave more than {against}: {', '.join(gave)}."] if gave else []
    return found + ([f"Kept more: {', '.join(kept)}."] if kept else [])
