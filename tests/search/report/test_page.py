from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from evaluators.metrics import METRICS, Metric
from search.output.unbroken import NO_BREAK
from search.report.figures.result import result_figure
from search.report.page import ReportError, render
from search.report.view import score_of, search_view, words
from tests.search.report.report_sample import network, sample, write_run


def page_of(folder: Path, report: dict[str, Any]) -> str:
    """Return the page of a report, with plain spaces in its figures."""
    return render(write_run(folder, report)).read_text().replace(NO_BREAK, " ")


@pytest.mark.usefixtures("no_pictures")
def test_no_figure_of_the_page_breaks(tmp_path: Path) -> None:
    report = sample()
    report["target"], report["targets"] = {"macs": "<= 40%"}, {"macs": {"text": "<= 40%", "limit": 12.4e6, "met": True}}
    for role in ("reference", "result"):
        report[role]["standard_errors"] = {"top1": 0.002}
    folder = write_run(tmp_path, report)
    (folder / "config.yaml").write_text('target: {macs: "<= 40%"}\n')
    page, plain = render(folder).read_text(), "[^<>\n]*"
    assert '<td class="long">93.82 ± 0.20 %</td>'.replace(" ", NO_BREAK).replace(f"td{NO_BREAK}", "td ") in page
    assert f"target &lt;={NO_BREAK}12.4{NO_BREAK}M met" in page
    body, _, after = page.partition("<body>")[2].partition('aria-label="Configuration"')
    broken = re.findall(rf">({plain}(?:± \d|\d ±|\d %|\d [kM]B?\b|\d ms\b){plain})<", body)
    assert not broken
    assert "macs: &#34;&lt;= 40%" in after


def test_the_page_says_what_was_reached_and_needs_nothing_else(tmp_path: Path) -> None:
    page = page_of(tmp_path, sample())
    assert "target met" in page
    assert "2.51x" in page
    assert "-0.21" in page
    assert "93.61 %" in page
    assert "0.43 points ahead of the best baseline" in page
    assert "network output &lt;must stay&gt;" in page
    assert "2.4e-06" in page
    assert page.count("<svg") == 6
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    assert "var(--blue)" in page
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"front.png", "progress.png", "result.png", "layers.png", "retention.png", "training.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "figures").iterdir())


@pytest.mark.usefixtures("no_pictures")
def test_the_one_script_of_the_page_is_the_shipped_one_and_no_other_may_run(tmp_path: Path) -> None:
    report = sample(trials=24)
    report["remarks"] = ["<script>alert(1)</script>"]
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", page := page_of(tmp_path, report), re.DOTALL)
    assert script == (files("search.report") / "templates" / "report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'" in page


def test_a_lead_that_chance_explains_is_said_to_be_one(tmp_path: Path) -> None:
    report = {**sample(), "searches": [], "histories": [], "layers": []}
    assert "standard error" not in page_of(tmp_path, report)
    report["result"]["top1"] = report["baselines"]["global_magnitude"]["top1"] + 0.001
    assert "within the standard error of 10,000 test samples" in page_of(tmp_path, report)
    del report["test_samples"]
    assert "standard error" not in page_of(tmp_path, report)


@pytest.mark.usefixtures("no_pictures")
def test_an_asynchronous_search_says_so(tmp_path: Path) -> None:
    report = sample()
    assert "asynchronous" not in page_of(tmp_path, report)
    report["searches"][0]["asynchronous"] = True
    assert "2-search was asynchronous" in page_of(tmp_path, report)


@pytest.mark.usefixtures("blank_pictures")
def test_rendering_again_gives_the_same_page(tmp_path: Path) -> None:
    first = page_of(tmp_path, sample(trials=30))
    assert render(tmp_path).read_text().replace(NO_BREAK, " ") == first


def without_search(report: dict[str, Any]) -> None:
    report.update(searches=[], pareto=[], layers=[], frozen=[], baselines={}, target=None, target_met=None)


def without_top1(report: dict[str, Any]) -> None:
    report.update(histories=[], searches=[])
    for row in (report["reference"], report["result"], *report["baselines"].values()):
        row.update(top1=None, metrics={"iou": 0.61})


def only_loss(report: dict[str, Any]) -> None:
    report.update(histories=[], searches=[], baselines={})
    for row in (report["reference"], report["result"], *report["baselines"].values()):
        row.update(top1=None, metrics={})


def bare(report: dict[str, Any]) -> None:
    for key in list(report.keys() - {"name", "seed"}):
        del report[key]


def failed_trials(report: dict[str, Any]) -> None:
    for trial in report["searches"][0]["trials"]:
        trial.update(state="failed", metrics={}, error="out of memory", feasible=False)
    report["searches"][0].update(pareto=[], chosen=None)


def nothing_feasible_in_many_layers(report: dict[str, Any]) -> None:
    report.update(target_met=False, histories=[])
    report["layers"] = [
        {"name": f"features.denseblock{index}.denselayer{index}.conv", "channels": 48, "kept": index % 47 + 1}
        for index in range(150)
    ]
    for trial in report["searches"][0]["trials"]:
        trial["feasible"] = False


def two_searches(report: dict[str, Any]) -> None:
    report.update(histories=[], layers=[])
    report["searches"] = [{**report["searches"][0], "stage": "1-search"}, report["searches"][0]]


def nothing_measured(report: dict[str, Any]) -> None:
    for row in (report["reference"], report["result"], *report["baselines"].values()):
        row |= dict.fromkeys(row) | {"metrics": {}}
    report["latency"] = None
    for epoch in report["histories"][0]["epochs"]:
        epoch["search_score"] = None
    report["failures"] = [{"what": "result: scores on the test split", "error": "ValueError: <b>none</b>"}]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without_search, "no target"),
        (without_top1, "61.00 %"),
        pytest.param(only_loss, "loss on the test split", marks=pytest.mark.slow),
        (bare, "no target"),
        pytest.param(failed_trials, "2-search", marks=pytest.mark.slow),
        pytest.param(nothing_feasible_in_many_layers, "of 7200 coupled channels kept", marks=pytest.mark.slow),
        pytest.param(two_searches, "1-search", marks=pytest.mark.slow),
        (nothing_measured, "<h2>Could not be measured</h2>"),
    ],
)
def test_parts_may_be_missing(tmp_path: Path, change: Callable[[dict[str, Any]], None], expected: str) -> None:
    report = sample(trials=24)
    change(report)
    assert expected in page_of(tmp_path, report)


@pytest.mark.usefixtures("no_pictures")
def test_merged_activations_are_shown(tmp_path: Path) -> None:
    merge = {
        "where": "block1",
        "nodes": ["act", "act<2>"],
        "activations": ["ReLU", "LeakyReLU 0.1"],
        "result": "ReLU",
        "exact": True,
    }
    left = {"where": "block2", "nodes": ["a", "b"], "reason": "the output of a is read 2 times"}
    entry = {"stage": "4-fuse", "merges": [merge], "left": [left], "max_abs_error": 0.0}
    page = page_of(tmp_path, {**sample(trials=24), "activations": [entry]})
    for text in ("Merged activations", "act, act&lt;2&gt;", "ReLU, LeakyReLU 0.1", "block1", "read 2 times"):
        assert text in page
    assert "Merged activations" not in page_of(
        tmp_path, {**sample(trials=24), "activations": [{**entry, "merges": [], "left": []}]}
    )


@pytest.mark.usefixtures("no_pictures")
def test_what_is_kept_of_the_task_relevance_is_shown(tmp_path: Path) -> None:
    page = page_of(tmp_path, sample(trials=24))
    for text in ("Task-relevant features", "62.0 %", "91.4 %", "41.0 %", "Layer by layer", "5 of 16", "3.1e-15"):
        assert text in page, text
    without = page_of(tmp_path, {**sample(trials=24), "retention": {}, "output_changes": []})
    assert "Task-relevant features" not in without
    assert "largest absolute change" not in without


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "has no report.json"), ("{", "is not JSON"), ("[]", "expected a JSON object")]
)
def test_a_folder_without_a_report_is_explained(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(ReportError, match=expected):
        render(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_only_full_measurements_are_points() -> None:
    search = sample(trials=30)["searches"][0]
    view = search_view(search)
    assert view is not None
    assert (view.score, view.cost, view.maximize) == ("top1", "macs", True)
    assert [point.number for point in view.points] == [row["trial"] for row in search["trials"] if row["fidelity"] == 1.0]
    assert all(point.feasible == (point.cost <= (view.limit or 0)) for point in view.points)
    assert view.chosen_point is not None


@pytest.mark.slow
def test_a_metric_of_ones_own_is_shown_as_it_is_described(tmp_path: Path) -> None:
    report = sample(trials=24)
    described = {
        "psnr": Metric("dB", "maximize", "signal to noise", "number"),
        "energy_mj": Metric("mJ", "minimize", "energy per answer"),
    }
    report["metrics_described"] = {name: metric.to_json() for name, metric in described.items()}
    for row in (report["reference"], report["result"], *report["baselines"].values()):
        row.update(top1=None, metrics={"psnr": 31.5}, energy_mj=42_500.0)
    for trial in report["searches"][0]["trials"]:
        trial["metrics"]["energy_mj"] = trial["metrics"].pop("macs")
    report["searches"][0].update(objectives={"top1": "maximize", "energy_mj": "minimize"}, target={"energy_mj": 1.2e7})
    page = page_of(tmp_path, report)
    for text in ("signal to noise", "31.5000", "energy per answer", "42.5 k", "energy per answer &lt;= 12 M"):
        assert text in page, text
    assert "3150.00" not in page
    report["metrics_described"] = {"psnr": "broken", "energy_mj": {"unit": 3}}
    assert "energy mj" in page_of(tmp_path, report)


def test_the_better_loss_is_ahead() -> None:
    points = [("reference", 2e6, 0.1), ("result", 1e6, 0.2), ("uniform", 1e6, 0.5)]
    figure = result_figure(points, 100, METRICS["loss"])
    assert figure.axes[0].get_title().startswith("The result is 0.3000 ahead of")
    assert figure.axes[0].get_xlabel() == "loss on the test split"


@pytest.mark.parametrize(
    ("metric", "own", "rival", "error", "expected"),
    [
        (METRICS["loss"], 3.0e-6, 4.5e-6, 0.0, "The result is 1.5e-06 ahead of"),
        (METRICS["loss"], 3.0e-6, 3.0e-6, 0.0, "score the same"),
        (METRICS["loss"], 3.0e-6, 4.5e-6, 2.0e-6, "within the standard error of 100 test samples"),
        (Metric("fraction", "maximize", "macro F1", "number", is_cost=False), 0.814, 0.811, 0.001, "is 0.0030 ahead of"),
        (Metric("fraction", "maximize", "macro F1", "number", is_cost=False), 0.814, 0.811, 0.01, "within the standard error"),
        (METRICS["top1"], 0.93041, 0.93039, 0.0025, "score the same"),
        (METRICS["top1"], 0.932, 0.930, 0.0001, "is 0.20 points ahead of"),
    ],
)
def test_a_lead_is_told_by_the_metrics_unit_and_error(
    metric: Metric, own: float, rival: float, error: float, expected: str
) -> None:
    points = [("result", 1e6, own), ("uniform", 1e6, rival)]
    title = result_figure(points, 100, metric, dict.fromkeys(("result", "uniform"), error)).axes[0].get_title()
    assert expected in title
    assert ("standard error" in expected) == ("standard error" in title)


@pytest.mark.usefixtures("no_pictures")
def test_the_primary_score_leads_and_has_its_error(tmp_path: Path) -> None:
    report = sample(trials=24)
    described = {"macro_f1": Metric("fraction", "maximize", "macro F1", "number", is_cost=False)}
    report["metrics_described"] = {name: metric.to_json() for name, metric in described.items()}
    report["score"] = "macro_f1"
    for shift, row in enumerate((report["reference"], report["result"], *report["baselines"].values())):
        row.update(metrics={"macro_f1": 0.81 - shift / 100}, standard_errors={"macro_f1": 0.0123, "top1": 0.002}, resamples=200)
    page = page_of(tmp_path, report)
    for text in ("0.8100 ± 0.0123", "macro F1 on the test split", "0.8000 ± 0.0123", "93.61 ± 0.20 %", "200 resamples)."):
        assert text in page, text
    assert page.index("macro F1") < page.index("top-1 accuracy")
    assert "points of top-1" not in page
    report["result"]["resamples"] = 37
    assert "200 resamples; 37 where their time of 60 s was up" in page_of(tmp_path, report)


def test_the_main_score_of_a_network() -> None:
    assert score_of(network(0.5, 1e6)) == ("top1", 0.5)
    assert score_of({**network(None, 1e6), "metrics": {"iou": 0.2}}) == ("iou", 0.2)
    assert score_of(network(None, 1e6, loss=0.7)) == ("loss", 0.7)
    assert score_of(None) is None
    several = {**network(0.5, 1e6, loss=0.7), "metrics": {"iou": 0.2}}
    assert [score_of(several, name) for name in ("iou", "loss", "gone")] == [("iou", 0.2), ("loss", 0.7), None]
    assert words("2-search") == "search"
    assert words("dense_same_training") == "dense, same training"


@pytest.mark.usefixtures("no_pictures")
def test_latency_is_shown_with_its_interval_and_what_was_predicted(tmp_path: Path) -> None:
    report = sample()
    assert "<h2>Latency</h2>" not in page_of(tmp_path, report)
    timing = {"median": 0.8, "low": 0.79, "high": 0.82, "repetitions": 100}
    report["latency"] = {
        "backend": "onnxruntime",
        "device": "cpu",
        "threads": 1,
        "batch_size": 1,
        "machine": "A Processor",
        "networks": {"reference": timing, "result": {**timing, "median": 0.4}},
        "predicted": 0.42,
        "error": 0.05,
    }
    page = page_of(tmp_path, report)
    assert "ONNX Runtime on A Processor, 1 thread, 1 sample a run" in page
    for text in ("0.790 to 0.820 ms", "50.0 %", "0.420 ms", "+5.0 %"):
        assert text in page
