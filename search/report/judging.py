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


def with_verdicts(report: Json) -> dict[str, Any]:
    """Return a report with its targets judged, where an earlier version wrote only the search's verdict."""
    last: Json = next(reversed(report.get("searches") or []), {})
    written, limits = report.get("target"), last.get("target") or {}
    known = isinstance(written, Mapping) and all(isinstance(limits.get(name), int | float) for name in written)
    if "targets" in report or not known or not written:
        return dict(report)
    searched = last.get("metrics") or {}
    targets = {}
    for name, text in written.items():
        row = {"text": str(text), "limit": limits[name], "met": bool(report.get("target_met"))}
        if isinstance(searched.get(name), int | float):
            row |= {"value": searched[name], "met": keeps(searched[name], limits[name])}
        targets[name] = row
    judged = judged_targets(targets, report.get("reference") or {}, report.get("result") or {})
    return {**report, "targets": judged, "target_met": all_met(judged)}


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


def close_calls(report: Json) -> Iterator[str]:
    """Yield a sentence, without a full stop, per target on latency that is judged within the interval of its measurement.

    The verdict stands by the medians. Of a limit relative to the reference the interval is that of the reference, too.
    """
    target = (report.get("targets") or {}).get(TIMED)
    networks = (report.get("latency") or {}).get("networks") or {}
    timing, base = networks.get("result"), networks.get("reference")
    if target is None or timing is None or target.get("value") != timing["median"]:
        return
    share = _share(target["text"])
    limits = [target["limit"]] * 2 if share is None or base is None else [share * base["low"], share * base["high"]]
    if timing["low"] <= limits[1] and limits[0] <= timing["high"]:
        metric = find_metric(TIMED, described_metrics(report))
        between = "" if limits[0] == limits[1] else f" ({metric.text(limits[0])} to {metric.text(limits[1])})"
        yield (
            f"target {TIMED} {target['text']} is {'met' if target['met'] else 'NOT met'} by less than the measurement tells: "
            f"{metric.text(timing['median'])}, 95 % interval {metric.text(timing['low'])} to {metric.text(timing['high'])}, "
            f"against {metric.text(target['limit'])}{between}"
        )


def caveats(report: Json) -> list[str]:
    """Return the sentences on verdicts that the search contradicts, or that another measurement may change."""
    return [*contradictions(report), *close_calls(report)]


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
