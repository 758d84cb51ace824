"""The seeds section of a report: mean and spread over repeated runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.metrics import Metric
from search.output.numbers import format_bytes, format_percent
from search.report.view import Row, network_words, primary_of, score_metric, score_of


def seed_rows(report: Mapping[str, Any]) -> list[Row]:
    """Return, per network (result, baselines, reference), mean and spread over the seeds; no rows for a single seed."""
    runs = report.get("seeds") or []
    if len(runs) < 2:
        return []
    roles = ["result", *(runs[0].get("baselines") or {}), "reference"]
    bases = [_of(run, "reference") for run in runs]
    rows = [_row(role, [_of(run, role) for run in runs], bases, report) for role in roles]
    return [row for row in rows if row is not None]


def _of(run: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (
        run.get(role) if role in ("result", "reference") else (run.get("baselines") or {}).get(role)
    ) or {}
    return found


def _row(
    role: str, networks: Sequence[Mapping[str, Any]], bases: Sequence[Mapping[str, Any]], report: Mapping[str, Any]
) -> Row | None:
    scores = [score_of(network, primary_of(report)) for network in networks]
    before = [score_of(base, primary_of(report)) for base in bases]
    own = [score for score in scores if score is not None]
    if len(own) < len(networks) or any(base is None or base[0] != own[0][0] for base in before):
        return None
    pairs = list(zip(networks, bases, strict=True))
    metric = score_metric(own[0][0], report)
    changes = [score[1] - base[1] for score, base in zip(own, before, strict=True) if base is not None]
    counted = [(network["macs"], base["macs"]) for network, base in pairs if network.get("macs") and base.get("macs")]
    shares = [left / whole for left, whole in counted]
    sizes = [network["size_bytes"] for network in networks if network.get("size_bytes")]
    cells = (
        _spread([score for _, score in own], metric),
        "" if role == "reference" else _spread(changes, metric, signed=True),
        format_percent(statistics.fmean(shares)) if shares else "-",
        format_bytes(statistics.fmean(sizes)) if sizes else "-",
        ", ".join(_number(score, metric) for _, score in own),
    )
    return Row(network_words(role, report), cells, strong=role == "result")


def _spread(values: Sequence[float], metric: Metric, signed: bool = False) -> str:
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    unit = "" if signed else metric.style.unit
    return f"{_number(mean, metric, '+' if signed else '')} ± {_number(deviation, metric)}{unit}"


def _number(value: float, metric: Metric, sign: str = "") -> str:
    """Return a value in the metric's scale and digits, without its unit."""
    return f"{value * metric.style.scale:{sign}.{4 if metric.style.digits is None else metric.style.digits}f}"
