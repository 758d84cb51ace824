"""Targets are judged once, and every reader of a report says the same."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from search.compressed import Compressed
from search.report.cards import cards, headline
from search.report.comparison import comparison_tables
from search.report.judging import all_met, caveats, close_calls, contradictions, judged_targets, with_verdicts
from search.report.networks import baseline_rows
from search.report.searches import search_row
from search.report.summary import show_summary
from tests.search.report.report_sample import sample

SEARCHED = {"limit": 0.0325, "value": 0.0321, "met": True}


def searched(text: str, **changes: Any) -> dict[str, Any]:
    """Return a target on latency as a search leaves it, whose reference takes 0.05 ms by the table."""
    return {"latency_ms": {"text": text, **SEARCHED, **changes}}


def judged(text: str, reference: float | None, result: float | None, **changes: Any) -> dict[str, Any]:
    rows = ({"latency_ms": reference}, {"latency_ms": result})
    found: dict[str, Any] = judged_targets(searched(text, **changes), *rows)["latency_ms"]
    return found


@pytest.mark.parametrize(
    ("text", "reference", "result", "limit", "met"),
    [
        ("<= 65%", 0.0592, 0.0496, 0.65 * 0.0592, False),
        # Every time is twice that of the table on a busy machine, and the share is what was asked for.
        ("<= 65%", 0.1, 0.064, 0.065, True),
        ("<= 0.0325", 0.0592, 0.0496, 0.0325, False),
        ("<= 0.0325", 0.0592, 0.0324, 0.0325, True),
        ("<= 0.0325", None, 0.04, 0.0325, False),
        # Without a reference of the same measurement the search's limit is what there is.
        ("<= 65%", None, 0.04, 0.0325, False),
    ],
)
def test_a_share_is_of_the_reference_measured_in_turn_and_a_number_is_a_number(
    text: str, reference: float | None, result: float, limit: float, met: bool
) -> None:
    found = judged(text, reference, result)
    assert (found["met"], found["value"]) == (met, result)
    assert found["limit"] == pytest.approx(limit)
    assert found["searched"] == SEARCHED


def test_a_cost_that_was_not_measured_keeps_the_verdict_of_the_search() -> None:
    assert judged("<= 65%", 0.0592, None) == {"text": "<= 65%", **SEARCHED}


def test_a_counted_cost_keeps_the_limit_of_the_search() -> None:
    targets = {"macs": {"text": "<= 40%", "limit": 40.0, "value": 39.0, "met": True}}
    same = judged_targets(targets, {"macs": 90}, {"macs": 39})
    assert same == targets
    assert not judged_targets(targets, {"macs": 100}, {"macs": 41})["macs"]["met"]


def test_a_limit_on_a_score_is_judged_where_it_was() -> None:
    score = {"text": ">= -1 points", "limit": 0.9, "value": 0.91, "met": True, "before": 0.91, "error": None}
    assert judged_targets({"top1": score}, {"top1": 0.5}, {"top1": 0.1}) == {"top1": score}
    assert all_met({"top1": score}) is True
    assert all_met({"top1": score, "macs": {"met": False}}) is False
    assert all_met({}) is None


def run_report(text: str = "<= 65%", mode: str = "table", result: float = 0.0496) -> dict[str, Any]:
    """Return the report of a search for a latency whose prediction was too good."""
    report = sample(trials=30)
    base, best = report["reference"], report["result"]
    base["latency_ms"], best["latency_ms"] = 0.0592, result
    for baseline in report["baselines"].values():
        baseline["latency_ms"] = 0.058
    medians = {role: report[role]["latency_ms"] for role in ("reference", "result")}
    networks = {role: {"median": ms, "low": 0.999 * ms, "high": 1.001 * ms, "repetitions": 9} for role, ms in medians.items()}
    report["latency"] = {"mode": mode, "backend": "eager", "networks": networks, "predicted": 0.0321}
    report["searches"][0] |= {"target": {"latency_ms": 0.0325}, "metrics": {"latency_ms": 0.0321}}
    targets = judged_targets(searched(text), base, best)
    return {**report, "target": {"latency_ms": text}, "targets": targets, "target_met": all_met(targets)}


def shown(report: dict[str, Any], width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show_summary(report, Path("runs/x"), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("text", "result", "met"), [("<= 65%", 0.0496, False), ("<= 0.0325", 0.0496, False), ("<= 65%", 0.03, True)]
)
def test_every_reader_says_the_same(text: str, result: float, met: bool) -> None:
    report = run_report(text, result=result)
    word = "met" if met else "NOT met"
    assert report["target_met"] is met
    assert headline(report)["verdict"] == f"target {word}"
    (card,) = [note for number, _, note in cards(report) if number.endswith(" ms")]
    assert f" ms {word}" in card
    assert baseline_rows(report)[0].cells[-1] == f"{result} ms, {word}"
    (row,) = [line for line in shown(report).splitlines() if line.startswith("│ latency")]
    assert f"ms, {word}" in row
    assert f"target latency_ms {text}: {word}" in shown(report)
    assert comparison_tables({"a": report}, {"a": {}})[1][2][0][-1] == word


def test_the_search_says_by_what_it_judged() -> None:
    cells = " ".join(search_row(run_report()["searches"][0], run_report()).cells)
    assert "latency <= 0.0325 ms: 0.0321 ms predicted by the table, met" in cells
    measured = run_report(mode="measured")
    assert "0.0321 ms measured in the search, met" in " ".join(search_row(measured["searches"][0], measured).cells)


def test_a_contradiction_is_told_with_both_figures() -> None:
    report = run_report()
    (text,) = contradictions(report)
    assert text == (
        "target latency_ms <= 65% is NOT met: 0.0496 ms of the reference's 0.0592 ms (83.8 %) measured at the end, both run in "
        "turn, which counts; 0.0321 ms of the reference's 0.05 ms (64.2 %) predicted by the table, within the target"
    )
    (card,) = [note for number, _, note in cards(report) if number.endswith(" ms")]
    assert card.endswith("NOT met, by the measurement at the end (0.0321 ms predicted by the table, met)")
    assert f"warning: {text}" in " ".join(shown(report).split())
    found = Compressed(model=None, report=report, folder=Path("x"))  # type: ignore[arg-type]
    assert f"warning: {text}" in " ".join(str(found).split())
    assert "NOT met<br>warning: target" in found._repr_html_()
    (text,) = contradictions(run_report("<= 0.0325", "measured"))
    assert "NOT met: 0.0496 ms measured at the end, which counts; 0.0321 ms measured in the search, within" in text


def test_nothing_is_told_where_both_agree() -> None:
    report = run_report(result=0.03)
    assert not list(contradictions(report))
    assert "warning" not in shown(report)
    assert "by the measurement" not in str(list(cards(report)))


def test_a_report_of_somebody_else_is_read_with_any_text_as_its_limit() -> None:
    report = copy.deepcopy(run_report())
    report["targets"]["latency_ms"] |= {"text": "rubbish", "limit": 0.0}
    (text,) = contradictions(report)
    assert "rubbish is NOT met: 0.0496 ms measured at the end" in text


@pytest.mark.parametrize(
    ("text", "result", "met", "close"),
    [
        # 65 % of the reference's 0.0592 ms is 0.0385 ms, of its interval 0.0371 to 0.0403 ms.
        ("<= 65%", 0.0387, False, True),
        ("<= 65%", 0.0379, True, True),
        ("<= 65%", 0.03, True, False),
        ("<= 65%", 0.05, False, False),
        ("<= 0.038", 0.0384, False, True),
        ("<= 0.038", 0.05, False, False),
    ],
)
def test_a_verdict_within_the_interval_of_the_measurement_says_so(text: str, result: float, met: bool, close: bool) -> None:
    report = run_report(text, result=result)
    if not text.endswith("%"):
        report["targets"]["latency_ms"] |= {"limit": 0.038, "met": met}
    report["latency"]["networks"] = {
        "reference": {"median": 0.0592, "low": 0.057, "high": 0.062, "repetitions": 9},
        "result": {"median": result, "low": result - 0.0005, "high": result + 0.0005, "repetitions": 9},
    }
    assert report["targets"]["latency_ms"]["met"] is met
    found = list(close_calls(report))
    assert len(found) == close
    if close:
        assert (
            f"is {'met' if met else 'NOT met'} by less than the measurement tells: {result:.3g} ms, 95 % interval" in found[0]
        )
        assert found[0] in caveats(report)
        assert "by less than the measurement tells" in " ".join(shown(report).split())


@pytest.mark.parametrize("macs", [30, 70])
def test_a_report_of_an_earlier_version_is_judged_by_what_was_delivered(macs: int) -> None:
    search = {"stage": "1-search", "target": {"macs": 60.0}, "metrics": {"macs": 55}}
    old = {"target": {"macs": "<= 60%"}, "target_met": True, "searches": [search], "result": {"macs": macs}, "reference": {}}
    found = with_verdicts(old)
    assert found["targets"]["macs"]["value"] == macs
    assert found["target_met"] is (macs <= 60)
    assert with_verdicts({**old, "targets": {}}) == {**old, "targets": {}}
    assert with_verdicts({**old, "searches": []}) == {**old, "searches": []}
