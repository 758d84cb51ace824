from __future__ import annotations

import subprocess
import sys

import pytest

from evaluators.metrics import METRICS, Metric, find_metric, metric_from_json


def test_values_are_told_in_the_metrics_format() -> None:
    told = {name: METRICS[name].text(value) for name, value in VALUES.items()}
    assert told == {"top1": "98.44 %", "loss": "0.0812", "macs": "40.8 M", "size_bytes": "1.09 MB", "latency_ms": "0.254 ms"}
    assert METRICS["size_bytes"].text(12.0) == "12 B"
    assert METRICS["top1"].brief(0.98444) == "0.9844"
    assert METRICS["size_bytes"].brief(65e3) == "65 kB"


VALUES = {"top1": 0.98444, "loss": 0.08123, "macs": 4.08e7, "size_bytes": 1.09e6, "latency_ms": 0.2541}


def test_changes_are_points_differences_and_ratios() -> None:
    assert METRICS["top1"].change(0.90, 0.8969) == "-0.31 points"
    assert METRICS["loss"].change(0.5, 0.49) == "-0.0100"
    assert METRICS["macs"].change(100.0, 40.0) == "2.50x less"
    assert METRICS["macs"].change(100.0, 120.0) == "1.20x more"
    assert METRICS["macs"].change(0.0, 120.0) == "-"


def test_small_numbers_keep_digits_and_values_have_errors() -> None:
    loss, share = METRICS["loss"], METRICS["top1"]
    assert [loss.text(value) for value in (0.0081, 0.00031, 3.1e-6, 0.0)] == ["0.0081", "0.00031", "3.1e-06", "0.0000"]
    assert [loss.difference(0.5, 0.5 + change) for change in (0.0012, -2e-5)] == ["+0.0012", "-2e-05"]
    assert [loss.with_error(0.5, error) for error in (None, 0.01)] == ["0.5000", "0.5000 ± 0.0100"]
    assert share.with_error(0.98444, 0.0012) == "98.44 ± 0.12 %"
    assert Metric("fraction", "maximize").with_error(31.5, 0.25) == "31.5 ± 0.25"
    assert METRICS["latency_ms"].with_error(0.25, 0.01) == "0.25 ms ± 0.01 ms"
    assert [share.same(0.9, 0.9 + change) for change in (4e-5, 6e-5)] == [True, False]
    assert [loss.same(1e-5, other) for other in (1e-5, 1.1e-5)] == [True, False]


def test_a_score_that_is_no_share_is_not_shown_in_per_cent() -> None:
    metric = Metric("fraction", "maximize")
    assert metric.text(31.5) == "31.5"
    assert metric.change(30.0, 31.5) == "1.05x more"
    assert metric.difference(30.0, 31.5) == "+1.5"


def test_what_is_minimized_is_a_cost_unless_it_says_otherwise() -> None:
    assert Metric("J", "minimize").is_cost is True
    assert Metric("fraction", "maximize").is_cost is False
    assert [name for name, metric in METRICS.items() if metric.direction == "minimize" and not metric.is_cost] == [
        "perplexity",
        "loss",
        "divergence",
        "divergence_error",
        "omega",
    ]


def test_an_unknown_metric_is_told_by_its_name() -> None:
    assert find_metric("peak_memory_bytes").text(2048.0) == "2.05 kB"
    assert find_metric("peak_memory_bytes").label == "peak memory bytes"
    assert find_metric("top10").percent
    assert find_metric("macs", {"macs": Metric("G", "minimize", "own word")}).label == "own word"


@pytest.mark.parametrize(
    "change", [{"unit": 3}, {"format": "colour"}, {"direction": "up"}, {"is_cost": "yes"}, {"label": None}]
)
def test_a_damaged_description_is_an_error(change: dict[str, object]) -> None:
    good = METRICS["macs"].to_json()
    assert metric_from_json(good) == METRICS["macs"]
    with pytest.raises(ValueError, match="expected"):
        metric_from_json({**good, **change})


def test_metrics_are_known_without_loading_torch() -> None:
    code = "import sys, evaluators.metrics, search.output.numbers; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
