"""The epochs whose weights the trainings of a report have handed on, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from search.report.view import network_words, primary_of, score_metric, words

RULE = (
    "Of a training the last epoch is handed on, or the best one on the search split, where the configuration says so or it "
    "leads by more than two standard errors."
)


def kept_text(report: Mapping[str, Any]) -> str:
    """Return a sentence on every training that handed on another epoch than its last, and the rule; empty without trainings."""
    histories = [
        entry
        for entry in [*(report.get("histories") or []), *(report.get("baseline_histories") or [])]
        if entry.get("epochs") and isinstance(entry.get("kept_epoch"), int)
    ]
    if not histories:
        return ""
    others = list(_others(histories, report))
    return f"{RULE} Here {'; '.join(others) if others else 'it was the last in all'}."


def _others(histories: list[Mapping[str, Any]], report: Mapping[str, Any]) -> Iterator[str]:
    primary = primary_of(report)
    for entry in histories:
        epochs, kept = entry["epochs"], entry["kept_epoch"]
        if not 0 <= kept < len(epochs):
            continue
        name = f"{words(str(entry.get('stage', '')))} of {network_words(str(entry.get('variant', 'result')), report)}"
        if not kept:
            yield f"{name} was undone"
            continue
        best, last = (epochs[place].get("search_score") for place in (kept - 1, -1))
        scores = ""
        if primary is not None and all(isinstance(value, int | float) for value in (best, last)):
            metric = score_metric(primary, report)
            scores = f" ({metric.text(best)} on the search split, {metric.text(last)} after the last)"
        yield f"{name} handed on epoch {kept} of {len(epochs)}{scores}"
