"""Cards and words of a report follow the run."""

from __future__ import annotations

from typing import Any

import pytest

from search.report.cards import cards
from search.report.networks import baseline_headings, baseline_rows, network_rows
from search.report.terms import explained
from search.report.view import network_words
from tests.search.report.report_sample import network

BITS = [{"name": "a", "weight_bits": 2, "weights": 300}, {"name": "b", "weight_bits": 8, "weights": 100}]


def run(**changes: Any) -> dict[str, Any]:
    before = network(0.9, 3.0e7)
    baseline = {**before, **changes, "top1": 0.7}
    return {"reference": before, "result": {**before, **changes, "top1": 0.8}, "baselines": {"uniform": baseline}}


def words_of(report: dict[str, Any]) -> list[str]:
    return [words for _, words, _ in cards(report)]


def test_a_card_is_of_a_cost_that_changed() -> None:
    assert words_of(run()) == ["points of top-1 accuracy"]
    assert words_of(run(macs=1.0e7)) == ["points of top-1 accuracy", "fewer MACs"]
    assert words_of(run(macs=2.99e7)) == ["points of top-1 accuracy"]
    assert words_of(run(macs=6.0e7)) == ["points of top-1 accuracy", "more MACs"]


def test_a_run_over_bits_shows_bytes_bits_per_weight_and_bit_operations() -> None:
    report = {**run(size_bytes=100_000, bit_operations=1e9), "bits": BITS}
    assert words_of(report) == ["points of top-1 accuracy", "of weights", "bits per weight", "fewer bit operations"]
    assert ("3.5", "bits per weight", "from 32") in list(cards(report))
    assert "fewer bit operations" not in words_of({**report, "bits": []})


def test_a_run_with_measured_latency_shows_milliseconds() -> None:
    report = run(latency_ms=0.5)
    report["reference"]["latency_ms"] = 1.0
    assert ("0.5 ms", "latency", "from 1 ms") in list(cards(report))


def test_a_run_that_merges_activations_shows_how_many() -> None:
    merges = [{"nodes": ["a", "b", "c"]}, {"nodes": ["d", "e"]}]
    assert ("3", "activations fewer", "5 became 2") in list(cards({**run(), "activations": [{"merges": merges}]}))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, "uniform ratio"),
        ({"bits": BITS}, "uniform bits"),
        ({"bits": BITS, "layers": [{"name": "a", "channels": 4, "kept": 2}]}, "uniform ratio and bits"),
    ],
)
def test_the_words_for_a_baseline_fit_the_method(parts: dict[str, Any], expected: str) -> None:
    assert network_words("uniform", {**run(), **parts}) == expected
    assert expected in [row.name for row in baseline_rows({**run(macs=1.0e7), **parts})]


def test_the_table_of_baselines_has_the_costs_that_changed() -> None:
    assert baseline_headings(run(macs=1.0e7)) == ["", "score", "difference", "MACs"]
    assert baseline_headings({**run(size_bytes=9), "bits": BITS}) == ["", "score", "difference", "size"]
    cells = baseline_rows(run(macs=1.5e7))[1].cells
    assert cells[-1] == "15 M, 50.0 %"


def test_a_change_that_does_not_show_is_told_without_a_ratio() -> None:
    changes = {row.name: row.cells[-1] for row in network_rows(run(macs=3.0e7 - 3e4, size_bytes=1))}
    assert (changes["MACs"], changes["parameters"]) == ("-0.1 %", "the same")
    assert "bit operations" not in changes


def test_every_metric_of_a_report_is_explained_once() -> None:
    text = explained(["top1", "macs", "top1", "somebody_s_own"])
    assert text.count("Top-1 accuracy:") == 1
    assert text.endswith("half the floating-point operations.")
