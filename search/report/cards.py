"""The cards at the top of a report: the figures that the run changed, those with a target first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evaluators.metrics import Metric, find_metric
from search.output.numbers import shows, times
from search.report.summary import target_text
from search.report.targets import cost_of, limit_text, limits_on_costs
from search.report.view import described_metrics, primary_of, score_metric, score_of

COUNTED = ("macs", "parameters", "size_bytes", "weight_bits", "bit_operations", "latency_ms")
"""Costs that have a card where they changed, in this order, behind those with a target."""
FLOAT_BITS = 32.0
"""Bits of a weight that is not quantized."""

Card = tuple[str, str, str]
"""A figure, words for it, and a note."""


def headline(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the badge and the cards at the top of a page."""
    met = report.get("target_met")
    verdict = {True: "target met", False: "target NOT met", None: "no target"}[met if isinstance(met, bool) else None]
    target = target_text(report["target"]) if report.get("target") else ""
    return {"cards": list(cards(report)), "met": met, "verdict": verdict, "target": target}


def cards(report: Mapping[str, Any]) -> Iterator[Card]:
    """Yield a card per target on a cost, the score, then one per cost that the run changed, and the merged activations.

    A run over bits shows bytes, bits per weight and bit operations, one with measured latency milliseconds; a cost that is what
    it was has no card, unless it has a target.
    """
    limits, quantized = limits_on_costs(report), bool(report.get("bits"))
    yield from (card for name in limits if (card := _cost_card(name, report)) is not None)
    yield from _score_card(report)
    for name in COUNTED:
        if name in limits or (name in ("weight_bits", "bit_operations") and not quantized):
            continue
        if _changed(name, report) and (card := _cost_card(name, report)) is not None:
            yield card
    yield from _merged_card(report)


def _pair(name: str, report: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return a cost of the reference and of the result; None where it is not known."""
    before, after = (cost_of(report.get(role), name) for role in ("reference", "result"))
    if name == "weight_bits" and after is None:
        return FLOAT_BITS, average_bits(report)
    return before, after


def average_bits(report: Mapping[str, Any]) -> float | None:
    """Return the bits per weight of the quantized layers, on average; None where nothing is quantized."""
    rows = [entry for entry in report.get("bits") or [] if entry.get("weight_bits")]
    weights = sum(entry.get("weights") or 0 for entry in rows)
    return sum((entry.get("weights") or 0) * entry["weight_bits"] for entry in rows) / weights if weights else None


def _changed(name: str, report: Mapping[str, Any]) -> bool:
    """Return whether a cost changed so much that it shows: 1.00x does not."""
    before, after = _pair(name, report)
    return bool(before and after and shows(before, after))


def _cost_card(name: str, report: Mapping[str, Any]) -> Card | None:
    metric = find_metric(name, described_metrics(report))
    before, after = _pair(name, report)
    if after is None:
        return None
    notes = [] if before is None else [f"from {metric.text(before)}"]
    if name in limits_on_costs(report):
        notes.append(limit_text(name, report))
    if name in ("macs", "parameters", "bit_operations") and before and after:
        less = after <= before
        ratio = times(before, after) if less else times(after, before)
        return (
            ratio,
            f"{'fewer' if less else 'more'} {metric.label}",
            "; ".join([f"{metric.text(after)} {notes[0]}", *notes[1:]]),
        )
    words = {"size_bytes": "of weights"}.get(name, metric.label)
    return metric.text(after), words, "; ".join(notes)


def _score_card(report: Mapping[str, Any]) -> Iterator[Card]:
    first, last = (score_of(report.get(role), primary_of(report)) for role in ("reference", "result"))
    if first is None or last is None or first[0] != last[0]:
        return
    metric: Metric = score_metric(first[0], report)
    change = metric.difference(first[1], last[1])
    values = f"{metric.text(first[1]).removesuffix(metric.style.unit)} to {metric.text(last[1])}"
    if metric.is_share(first[1], last[1]):
        yield change, f"points of {metric.label}", f"{values}, test split"
    else:
        yield change, f"{metric.label} on the test split", values


def _merged_card(report: Mapping[str, Any]) -> Iterator[Card]:
    merges = [merge for entry in report.get("activations") or [] for merge in entry.get("merges") or []]
    fewer = sum(len(merge["nodes"]) - 1 for merge in merges)
    if fewer:
        were = sum(len(merge["nodes"]) for merge in merges)
        yield str(fewer), "activation fewer" if fewer == 1 else "activations fewer", f"{were} became {len(merges)}"
