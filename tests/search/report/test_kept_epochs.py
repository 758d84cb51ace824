"""The epochs that trainings have handed on: a sentence, and a ring in the figure."""

from __future__ import annotations

from typing import Any

from search.report.figures.training import training_figure
from search.report.kept_epochs import RULE, kept_text


def history(stage: str, variant: str, scores: list[float], kept: int | None) -> dict[str, Any]:
    epochs = [{"epoch": place, "loss": 1.0, "search_loss": 1.0, "search_score": score} for place, score in enumerate(scores, 1)]
    return {"stage": stage, "variant": variant, "epochs": epochs, **({} if kept is None else {"kept_epoch": kept})}


def report(*histories: dict[str, Any]) -> dict[str, Any]:
    result = [entry for entry in histories if entry["variant"] == "result"]
    return {
        "score": "top1",
        "result": {"top1": 0.5},
        "histories": result,
        "baseline_histories": [entry for entry in histories if entry["variant"] != "result"],
    }


def test_the_last_in_all_is_said_in_one_sentence() -> None:
    found = kept_text(report(history("0-train", "result", [0.5, 0.6], 2), history("2-retrain", "uniform", [0.5], 1)))
    assert found == f"{RULE} Here it was the last in all."


def test_others_are_named_with_both_scores() -> None:
    found = kept_text(
        report(
            history("0-train", "result", [0.5, 0.6], 2),
            history("2-retrain", "result", [0.9, 0.5], 1),
            history("2-retrain", "uniform", [0.4, 0.3], 0),
        )
    )
    assert "retraining of this result handed on epoch 1 of 2 (90.00 % on the search split, 50.00 % after the last)" in found
    assert "retraining of uniform ratio was undone" in found
    assert "0-train" not in found


def test_a_report_of_an_earlier_version_says_nothing() -> None:
    assert kept_text(report(history("0-train", "result", [0.5], None))) == ""
    assert kept_text({"histories": None, "baseline_histories": None}) == ""


def test_the_figure_marks_the_epoch_that_was_handed_on() -> None:
    drawn = training_figure(report(history("0-train", "result", [0.5, 0.6], 2), history("2-retrain", "result", [0.9, 0.5], 1)))
    assert drawn.get_suptitle() == "4 epochs of training: 90 % in epoch 3, which was handed on"
    rings = [line for line in drawn.axes[1].get_lines() if line.get_label() == "this result, epoch handed on"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in rings] == [([3], [90.0])]
    plain = training_figure(report(history("0-train", "result", [0.5, 0.6], 2)))
    assert plain.get_suptitle() == "2 epochs of training: 60 % at the end"
