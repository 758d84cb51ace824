"""Sections on the search: its verdict, its finalists, its trials, its course, and the units that gave."""

from __future__ import annotations

from typing import Any

import pytest

from search.report.figures.pictures import render_drawing
from search.report.figures.progress import Progress
from search.report.finalists import finalist_table
from search.report.trials import MOST_TRIALS, trial_table
from search.report.units import given_and_kept
from search.report.verdict import uniform_as_well, verdict
from tests.search.report.report_sample import network, sample


def judged(own: float, uniform: float, error: float | None = 0.004, **changes: Any) -> dict[str, Any]:
    errors = {} if error is None else {"standard_errors": {"top1": error}}
    return {
        "score": "top1",
        "result": network(own, 1e6) | errors,
        "baselines": {"uniform": network(uniform, 1e6) | errors},
    } | changes


@pytest.mark.parametrize(
    ("own", "uniform", "as_well"), [(0.9056, 0.90, True), (0.9058, 0.90, False), (0.89, 0.90, True), (0.95, 0.90, False)]
)
def test_uniform_would_have_done_as_well_within_the_standard_error_of_the_difference(
    own: float, uniform: float, as_well: bool
) -> None:
    report = judged(own, uniform)
    assert uniform_as_well(report) is as_well
    assert ("uniform would have done as well" in verdict(report)) is as_well
    assert f"{(own - uniform) * 100:+.2f} points, standard error of the difference 0.57 points" in verdict(report)


def test_of_a_loss_the_lower_one_leads() -> None:
    report = judged(0.0, 0.0, score="loss")
    for role, loss in ((report["result"], 0.1), (report["baselines"]["uniform"], 0.2)):
        role.update(loss=loss, standard_errors={"loss": 0.01})
    assert uniform_as_well(report) is False


def test_the_verdict_says_how_networks_were_trained_and_nothing_without_errors_or_uniform() -> None:
    assert "without training behind the search" in verdict(judged(0.9, 0.9))
    trained = judged(0.9, 0.9, baseline_histories=[{"stage": "2-retrain", "variant": "uniform", "epochs": []}])
    assert "trained like this" in verdict(trained)
    assert verdict(judged(0.9, 0.9, error=None)) == ""
    assert verdict(judged(0.9, 0.9, baselines={})) == ""


def finalists(scores: list[list[float]]) -> dict[str, Any]:
    trials = [{"trial": number, "metrics": {"divergence": 0.1 * (number + 1)}} for number in range(len(scores))]
    rows = [
        {
            "trial": number,
            "steps": 8 * (len(own) - 1),
            "search_score": own[-1],
            "scores": [[8 * n, s] for n, s in enumerate(own)],
        }
        for number, own in enumerate(scores)
    ]
    return {"objectives": {"divergence": "minimize"}, "trials": trials, "finalists": rows, "chosen": 0}


def test_finalists_stand_with_their_scores_at_every_rung_and_the_rank_correlation() -> None:
    table = finalist_table(finalists([[0.9, 0.95], [0.8, 0.9], [0.7, 0.96], [0.6]]), {"score": "top1"})
    assert table is not None
    heads, rows = table
    assert heads[2:] == ["search: divergence", "top-1 accuracy before training", "top-1 accuracy after 8 steps"]
    assert [*rows[0].cells] == ["8", "0.1000", "90.00 %", "95.00 %"]
    assert rows[3].cells[-1] == "-"
    assert [row.strong for row in rows] == [True, False, False, False, False]
    assert [*rows[-1].cells[2:]] == ["1.00 of 4", "-0.50 of 3"]
    assert finalist_table(finalists([[0.9]]), {}) is None


def test_finalists_that_train_to_the_end_have_one_score_and_a_failed_one_its_error() -> None:
    entry = finalists([[0.9], [0.8]])
    entry["finalists"] = [{"trial": 0, "search_score": 0.9}, {"trial": 1, "search_score": None, "error": "out of memory"}]
    table = finalist_table(entry, {"score": "top1"})
    assert table is not None
    assert table[0][-1] == "top-1 accuracy after training"
    assert [row.cells[-1] for row in table[1]] == ["90.00 %", "out of memory"]


def test_the_table_of_trials_has_a_number_behind_every_cell_that_is_sorted_by_one() -> None:
    report = sample(trials=30)
    entry = report["searches"][0]
    entry["trials"][3].update(state="failed", metrics={})
    table = trial_table(entry, report)
    assert table is not None
    assert table.heads == ["trial", "top-1 accuracy", "MACs", "parameters", "measured", "target", "fingerprint"]
    assert table.chosen == entry["chosen"]
    assert [cell[1] for cell in table.rows[3]][:3] == [3.0, None, None]
    values = [row[1][1] for row in table.rows if row[1][1] is not None]
    assert values == [trial["metrics"]["top1"] for trial in entry["trials"] if trial["metrics"]]
    entry["trials"] *= 50
    many = trial_table(entry, report)
    assert many is not None
    assert (len(many.rows), many.number) == (MOST_TRIALS, 1500)


def test_units_that_gave_and_kept_more_than_under_uniform_are_named() -> None:
    layers = [{"name": name, "channels": 10, "kept": kept} for name, kept in (("a", 2), ("b", 9), ("c", 5))]
    uniform = {"layers": [{**layer, "kept": 5} for layer in layers]}
    assert given_and_kept({"layers": layers, "baselines": {"uniform": uniform}}) == [
        "Gave more than under a uniform ratio: a (20.0 % kept, 50.0 %).",
        "Kept more: b (90.0 % kept, 50.0 %).",
    ]
    assert given_and_kept({"layers": layers})[0].startswith("Gave more than all units together: a (20.0 % kept, 53.3 %)")
    assert given_and_kept({"layers": [{**layer, "kept": 5} for layer in layers]}) == []


def test_the_course_of_generations_is_by_evaluations_and_claims_no_best() -> None:
    report = sample(trials=12)
    for trial in report["searches"][0]["trials"]:
        trial.update(fidelity=1.0, evaluations=9)
    (drawing,) = Progress().draw(report)
    axes = drawing.canvas.axes[0]
    assert [*axes.get_lines()[0].get_xdata()] == [9 * (number + 1) for number in range(12)]
    assert "in 108 evaluations" in axes.get_title()
    assert "best so far" not in [line.get_label() for line in axes.get_lines()]


def test_every_mark_of_a_candidate_tells_what_it_is() -> None:
    report = sample(trials=12)
    (drawing,) = Progress().draw(report)
    svg = render_drawing(Progress(), drawing).svg
    full = [trial for trial in report["searches"][0]["trials"] if trial["fidelity"] == 1.0]
    assert svg.count("<title>trial ") == len(full)
    for trial in full:
        assert f"<title>trial {trial['trial']}: top-1 accuracy {100 * trial['metrics']['top1']:.2f} %" in svg
