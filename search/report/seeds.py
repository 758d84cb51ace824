"""The seeds section of a report: mean and spread over repeated runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from search.output.numbers import format_bytes, format_percent, points
from search.report.view import Row, score_of, words


def seed_rows(report: Mapping[str, Any]) -> list[Row]:
    """Return, per network (result, baselines, reference), mean and spread over the seeds; no rows for a single seed."""
    runs = report.get("seeds") or []
    if len(runs) < 2:
        return []
    roles = ["result", *(runs[0].get("baselines") or {}), "reference"]
    rows = [_row(role, [_of(run, role) for run in runs], [_of(run, "reference") for run in runs]) for role in roles]
    return [row for row in rows if row is not None]


def _of(run: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (
        run.get(role) if role in ("result", "reference") else (run.get("baselines") or {}).get(role)
    ) or {}
    return found


def _row(role: str, networks: Sequence[Mapping[str, Any]], bases: Sequence[Mapping[str, Any]]) -> Row | None:
    scores = [score_of(network) for network in networks]
    before = [score_of(base) for base in bases]
    own = [score for score in scores if score is not None]
    if len(own) < len(networks) or any(base is None for base in before):
        return None
    loss = own[0][0] == "loss"
    changes = [score[1] - base[1] for score, base in zip(own, before, strict=True) if base is not None]
    shares = [network["macs"] / base["macs"] for network, base in zip(networks, bases, strict=True) if base.get("macs")]
    sizes = [network["size_bytes"] for network in networks if network.get("size_bytes")]
    cells = (
        _spread([score for _, score in own], loss),
        "" if role == "reference" else _spread(changes, loss, signed=True),
        format_percent(statistics.fmean(shares)) if shares else "-",
        format_bytes(statistics.fmean(sizes)) if sizes else "-",
        ", ".join(f"{score:.4f}" if loss else f"{score * 100:.2f}" for _, score in own),
    )
    return Row("this result" if role == "result" else words(role), cells, strong=role == "result")


def _spread(values: Sequence[float], loss: bool, signed: bool = False) -> str:
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    if loss:
        return f"{mean:{'+' if signed else ''}.4f} ± {deviation:.4f}"
    return f"{points(mean) if signed else f'{mean * 100:.2f}'} ± {deviation * 100:.2f}{'' if signed else ' %'}"
