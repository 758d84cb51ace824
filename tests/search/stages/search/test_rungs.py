"""Finalists train in rungs, whose steps are the first ones of the winner's retraining."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.config import load
from search.config.document import ConfigError
from search.executors.rung_trainer import RungTrainer
from search.pipeline import run
from search.run.stage_run import StageRun
from search.stages.search.finalists import Finalist
from search.stages.search.rungs import _Race, rung_sizes
from search.study.trial import Proposal
from spaces.candidate import Candidate
from spaces.errors import SecateursError
from tests.integration.tiny_pipeline import timeless
from tests.search.tracking.recorder import EVENTS

HEAD = """\
name: tiny
seed: 1
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 200, train_size: 300}
stages:
  - search:
      space: channel_mask
      algorithm: {name: random, evaluations: 5}
      evaluate: [accuracy, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 60%"}
      baselines: [uniform]
      reconstruct: {images: 64}
"""
STEPS = "      finalists: {count: 4, steps: [2, 5, 8]}\n"
TRAINING = "{epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.1}, distillation: {features: {}}}"
RETRAIN = f"  - retrain: {TRAINING}\n"

pytestmark = pytest.mark.usefixtures("no_pictures")


def started(folder: Path, text: str, *overrides: str) -> dict[str, Any]:
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(text)
    return run(load(path, overrides), folder, None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("rungs") / "whole"
    EVENTS.clear()
    return folder, started(folder, HEAD + STEPS + RETRAIN, "execution.trackers=[{tests.search.tracking.recorder.Recorder: {}}]")


def weights(folder: Path) -> bytes:
    return (folder / "best" / "weights.safetensors").read_bytes()


def test_half_of_the_finalists_go_on() -> None:
    assert rung_sizes(8, 3) == [8, 4, 2]
    assert rung_sizes(5, 4) == [5, 2, 1, 1]


def test_the_better_half_trains_on_and_the_report_tells_every_step(whole: tuple[Path, dict[str, Any]]) -> None:
    (search,) = whole[1]["searches"]
    rows = search["finalists"]
    assert sorted(row["steps"] for row in rows) == [2, 2, 5, 8] or sorted(row["steps"] for row in rows) == [2, 2, 8, 8]
    assert all([steps for steps, _ in row["scores"]] == [0, 2, 5, 8][: len(row["scores"])] for row in rows)
    for rung, left in ((1, 2), (2, 1)):
        at = sorted((row for row in rows if len(row["scores"]) > rung), key=lambda row: (-row["scores"][rung][1], row["trial"]))
        on = [row["trial"] for row in at[:left]]
        assert on == [row["trial"] for row in at if len(row["scores"]) > rung + 1] or rung == 2
    (winner,) = [row for row in rows if row["trial"] == search["chosen"]]
    assert winner["steps"] == 8
    assert winner["search_score"] == max(row["search_score"] for row in rows if row["steps"] == 8)


def test_trackers_are_told_of_the_epochs_of_finalists_and_of_what_the_retraining_adds(
    whole: tuple[Path, dict[str, Any]],
) -> None:
    told = [(event[1], event[2], event[3]) for event in EVENTS if event[0] == "epoch"]
    rows = whole[1]["searches"][0]["finalists"]
    # An epoch has 6 steps.
    expected = {(f"0-search (finalist {row['trial']})", 1) for row in rows if row["steps"] >= 6}
    assert {(label, number) for label, number, _ in told if "finalist" in label} == expected
    assert sorted((label, number) for label, number, _ in told if "finalist" not in label) == [
        ("1-retrain", 2),
        ("1-retrain (uniform)", 1),
        ("1-retrain (uniform)", 2),
    ]
    assert len(told) == len(expected) + 3
    assert all(set(values) == {"loss", "top1", "lr"} for _, _, values in told)


def test_the_retraining_goes_on_and_comes_to_what_it_would_from_its_start(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    monkeypatch.setattr(StageRun, "go_on", lambda self, name: trained.append(0))
    again = started(tmp_path / "again", HEAD + STEPS + RETRAIN)
    assert trained
    assert weights(tmp_path / "again") == weights(whole[0])
    assert timeless(again) == timeless(whole[1])
    history = whole[1]["histories"][-1]["epochs"]
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    # The first epoch, 6 steps, was trained by the rungs; what is left lies nowhere.
    assert not list((whole[0] / "checkpoints").glob("**/begun.safetensors"))
    assert not list((whole[0] / "checkpoints").glob("**/finalists"))


@pytest.mark.slow
@pytest.mark.parametrize("cut_off_at", [0, 1, 3, 4, 6])
def test_a_race_that_was_cut_off_comes_to_the_same(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_off_at: int
) -> None:
    begun: list[int] = []
    train = RungTrainer.train

    def cut(self: RungTrainer, *arguments: Any) -> Any:
        begun.append(0)
        if len(begun) == cut_off_at + 1:
            train(self, *arguments)
            raise KeyboardInterrupt
        return train(self, *arguments)

    folder = tmp_path / "cut"
    with monkeypatch.context() as patched:
        patched.setattr(RungTrainer, "train", cut)
        with pytest.raises(KeyboardInterrupt):
            started(folder, HEAD + STEPS + RETRAIN)
    if cut_off_at == 4:  # Scores that are lost are measured again, also of those that were trained further.
        (record,) = folder.glob("checkpoints/*/result/finalists/rungs.json")
        record.write_text("{")
    resumed = started(folder, HEAD + STEPS + RETRAIN)
    assert timeless(resumed) == timeless(whole[1])
    assert weights(folder) == weights(whole[0])


@pytest.mark.slow
def test_without_a_retraining_the_winner_is_trained_here_to_the_end(tmp_path: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    own = STEPS.replace("8]", f"8], training: {TRAINING}")
    report = started(tmp_path / "own", HEAD + own)
    (search,), (other,) = report["searches"], whole[1]["searches"]
    assert search["finalists"] == other["finalists"]
    assert report["result"]["top1"] == whole[1]["result"]["top1"]
    assert weights(tmp_path / "own") == weights(whole[0])


def test_of_equal_scores_the_lower_trial_wins_and_no_number_loses() -> None:
    finalists = [Finalist(Proposal(Candidate({"a": place})), trial=trial) for place, trial in enumerate((7, 3, 5, 1))]
    prints = [finalist.proposal.candidate.fingerprint for finalist in finalists]
    scores: Any = {name: {"2": score} for name, score in zip(prints, (0.5, 0.5, 0.6, None), strict=True)}
    nothing: Any = None
    for sign, wanted in ((1.0, [2, 1, 0, 3]), (-1.0, [1, 0, 2, 3])):
        stage: Any = SimpleNamespace(task=SimpleNamespace(score_sign=sign))
        race = _Race(finalists, nothing, nothing, stage, nothing, nothing, scores)
        assert race._best_first([0, 1, 2, 3], 2) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + STEPS, "which must be `retrain`, and nothing is there"),
        (HEAD + STEPS + "  - export: {formats: [onnx]}\n" + RETRAIN, "which must be `retrain`, and export is there"),
        (HEAD + "      finalists: {count: 4}\n" + RETRAIN, "finalists.training: expected what finalists are trained with"),
        (HEAD + "      finalists: {steps: [3, 3]}\n" + RETRAIN, "finalists.steps: expected rising numbers"),
    ],
)
def test_finalists_say_what_they_train_with(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "one.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "one.yaml")


def test_more_steps_than_the_retraining_has_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(SecateursError, match="expected fewer than the 12 steps of the retraining behind it, got 12"):
        started(tmp_path / "long", HEAD + STEPS.replace("8]", "12]") + RETRAIN)
    assert not (tmp_path / "long").exists()
