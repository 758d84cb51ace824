"""Parts of a page that a report.json of an earlier version has no data for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = {
    "reference": "the network before",
    "baselines": "baselines",
    "answers": "which answers changed",
    "modules": "costs by block",
    "baseline_histories": "trainings of baselines",
    "files": "sizes of the exported files",
    "metrics_described": "units of metrics",
}
"""Words for the keys of report.json that a version has added, and that every report has had since; an older one has none."""


def lacking_text(report: Mapping[str, Any]) -> str:
    """Return what the page lacks since its report is of an earlier version; empty where it has all."""
    missing = [words for key, words in PARTS.items() if key not in report]
    if not missing:
        return ""
    return (
        f"This report.json was written by an earlier version, and has nothing on {', '.join(missing)}. "
        "The same `run` command measures the networks again and writes it anew, where the run folder is whole."
    )
