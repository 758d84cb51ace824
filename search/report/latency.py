"""The latency section of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.report.view import Row, words


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
        rows.append(Row("this result" if role == "result" else words(role), cells, strong=role == "result"))
    return rows


def latency_text(report: Mapping[str, Any]) -> str:
    """Return how latency was measured, in a sentence; empty where it was not."""
    latency = report.get("latency") or {}
    if not latency:
        return ""
    names = {"onnxruntime": "ONNX Runtime", "eager": "PyTorch as it is", "compile": "PyTorch, compiled"}
    threads = latency["threads"]
    where = latency["machine"] + (f", {threads} thread{'s' if threads > 1 else ''}" if latency["device"] == "cpu" else "")
    size = latency["batch_size"]
    return f"{names[latency['backend']]} on {where}, {size} sample{'s' if size > 1 else ''} a run, the networks run in turn."
