"""The latency section of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluators.latency.backends import BACKENDS
from search.report.view import Row, network_words
from spaces.registry import lookup


def latency_rows(report: Mapping[str, Any]) -> list[Row]:
    """Return a row per network: its median with the interval, its share of the reference's, and what the table predicted."""
    latency = report.get("latency") or {}
    networks: Mapping[str, Any] = latency.get("networks") or {}
    base = networks.get("reference", {}).get("median")
    rows = []
    for role, timing in networks.items():
        share = f"{timing['median'] / base * 100:.1f} %" if base else "-"
        predicted, error = ("-", "-")
        if role == "result" and latency.get("predicted") is not None:
            predicted, error = f"{latency['predicted']:.3f} ms", f"{latency['error'] * 100:+.1f} %"
        interval = f"{timing['low']:.3f} to {timing['high']:.3f} ms"
        cells = (f"{timing['median']:.3f} ms", interval, str(timing["repetitions"]), share, predicted, error)
        rows.append(Row(network_words(role, report), cells, strong=role == "result"))
    return rows


def latency_text(report: Mapping[str, Any]) -> str:
    """Return how latency was measured, in a sentence; empty where it was not."""
    latency = report.get("latency") or {}
    if not latency:
        return ""
    threads = latency["threads"]
    where = latency["machine"] + (f", {threads} thread{'s' if threads > 1 else ''}" if latency["device"] == "cpu" else "")
    size = latency["batch_size"]
    samples = f"{size} sample{'s' if size > 1 else ''} a run"
    return f"{_label(latency)} on {where}, {samples}, the networks run in turn."


def _label(latency: Mapping[str, Any]) -> str:
    """Return the runtime's name; reports from before have no label, and nothing is imported by a name that a report gives."""
    name = str(latency["backend"])
    if "label" in latency:
        return str(latency["label"])
    return str(lookup(BACKENDS, name, "backend").label) if name in BACKENDS else name
