"""The one rule by which targets on costs are judged, which every table, card and exit code reads the outcome of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from evaluators.metrics import Metric, find_metric
from search.config.block import parse_limit
from search.output.numbers import format_percent
from search.report.view import described_metrics

TIMED = "latency_ms"
"""The cost that is measured anew at the end of a run, of all networks in turn."""
_SLACK = 1e-9
_KEYS = ("text", "limit", "met", "before", "value", "error")

Json = Mapping[str, Any]


def keeps(value: float, limit: float) -> bool:
    """Return whether a cost keeps its limit, the last digit of a floating-point number forgiven."""
    return value <= limit * (1.0 + _SLACK)


def judged_targets(targets: Mapping[str, Json], reference: Json, result: Json) -> dict[str, dict[str, Any]]:
    """Return the targets of report.json, judged by what the delivered network costs at the end of the run.

    A cost that was not measured then keeps the search's verdict, and so does a limit on a score. An absolute limit is compared
    with the network's cost. One relative to the reference is, of latency, that share of the reference's latency in the same
    measurement, in which both networks are run in turn: the times of another hour, or of a table, say little of this one.
    What the search itself went by, its ``limit``, ``value`` and ``met``, stands under ``searched`` where it is another value.

    Args:
        targets: By metric the ``text`` as written, and the search's ``limit``, ``value`` and ``met``.
        reference: The reference's row of report.json.
        result: The delivered network's row.
    """
    found = {}
    for name, target in targets.items():
        row = {key: target[key] for key in _KEYS if key in target}
        value = result.get(name)
        if "before" not in target and isinstance(value, int | float):
            limit, share = target["limit"], _share(target["text"])
            if name == TIMED and share is not None and isinstance(reference.get(name), int | float):
                limit = share * reference[name]
            row |= {"limit": limit, "value": value, "met": keeps(value, limit)}
            if "value" in target and not _equal(value, target["value"]):
                row["searched"] = {key: target[key] for key in ("limit", "value", "met")}
        found[name] = row
    return found


def all_met(targets: Mapping[str, Json]) -> bool | None:
    """Return whether every target is met; None without one."""
    return all(target["met"] for target in targets.values()) if targets else None


def contradicted(target: Json) -> bool:
    """Return whether the search's figure of a cost and the one at the end of the run differ in the verdict."""
    searched = target.get("searched")
    return searched is not None and bool(searched["met"] != target["met"])


def source(report: Json, name: str = TIMED) -> str:
    """Return the origin of the figure that a search went by, in words; empty for a cost that is counted."""
    if name != TIMED or not report.get("latency"):
        return ""
    return "predicted by the table" if report["latency"].get("mode") == "table" else "measured in the search"


def contradictions(report: Json) -> Iterator[str]:
    """Yield a sentence, without a full stop, per target on which the search and the end of the run differ in the verdict."""
    for name, target in (report.get("targets") or {}).items():
        if contradicted(target):
            metric, searched = find_metric(name, described_metrics(report)), target["searched"]
            share = _share(target["text"]) if name == TIMED else None
            own, other = (_figure(metric, one, share) for one in (target, searched))
            met = "met" if target["met"] else "NOT met"
            end = "measured at the end" if name == TIMED else "what is delivered"
            turn = ", both run in turn" if share is not None else ""
            kept = "within" if searched["met"] else "over"
            yield (
                f"target {name} {target['text']} is {met}: {own} {end}{turn}, which counts; {other} "
                f"{source(report, name) or 'in the search'}, {kept} the target"
            )


def _figure(metric: Metric, judged: Json, share: float | None) -> str:
    """Return a cost in its unit, with the share of the reference's where the limit is a share."""
    text = metric.text(judged["value"])
    whole = judged["limit"] / share if share is not None else 0.0
    if not whole:
        return text
    return f"{text} of the reference's {metric.text(whole)} ({format_percent(judged['value'] / whole)})"


def _share(text: Any) -> float | None:
    """Return the share of a limit that is relative to the reference; None for an absolute one, and for what is no limit."""
    with suppress(ValueError):
        limit = parse_limit(str(text))
        return limit.value if limit.relative else None
    return None


def _equal(first: float, second: float) -> bool:
    return abs(first - second) <= _SLACK * max(abs(first), abs(second))
