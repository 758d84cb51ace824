"""Targets in the cards and the tables of a report."""

from __future__ import annotations

from typing import Any

from search.report.cards import cards
from search.report.targets import search_targets, target_cells, target_headings

REPORT: dict[str, Any] = {
    "targets": {
        "macs": {"text": "<= 40%", "limit": 12.4e6, "met": True},
        "weight_bits": {"text": "<= 4", "limit": 4.0, "met": True},
        "latency_ms": {"text": "<= 0.5", "limit": 0.5, "met": False},
    },
    "reference": {"macs": 31_000_000, "weight_bits": 32.0, "latency_ms": 1.0},
    "result": {"macs": 12_000_000, "weight_bits": 3.5, "latency_ms": 0.6},
}


def test_every_target_has_a_card() -> None:
    assert list(cards(REPORT)) == [
        ("2.58x", "fewer MACs", "12 M from 31 M; target <= 12.4 M met"),
        ("3.5", "bits per weight", "from 32; target <= 4 met"),
        ("0.6 ms", "latency", "from 1 ms; target <= 0.5 ms NOT met"),
    ]
    assert list(cards({})) == []


def test_every_target_stands_beside_every_baseline() -> None:
    assert target_headings(REPORT) == ["MACs <= 12.4 M", "bits per weight <= 4", "latency <= 0.5 ms"]
    assert target_cells(REPORT["result"], REPORT) == ["12 M, met", "3.5, met", "0.6 ms, NOT met"]
    assert target_cells({"macs": 13_000_000}, REPORT) == ["13 M, NOT met", "-", "-"]


def test_every_target_of_a_search_is_told() -> None:
    entry = {"target": {"macs": 12.4e6, "latency_ms": 0.5}, "metrics": {"macs": 12.0e6, "latency_ms": 0.6}}
    assert search_targets(entry, REPORT) == "MACs <= 12.4 M, met; latency <= 0.5 ms, NOT met"
    assert search_targets({}, REPORT) == "-"
