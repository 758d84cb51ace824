"""The best candidates of a search are trained, and the one that is best then is delivered."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from search.config import load
from search.output.progress import Log
from search.pipeline import run
from search.run.network import Network
from search.stages.search import finalists
from search.stages.search.finalists import Finalist, choose_finalists, train_finalists
from search.study.problem import Objective, Problem
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from spaces.errors import SecateursError
from tests.search.small_space import MaskSpace
from tests.search.tracking.recorder import EVENTS

CONFIG = """\
name: tiny
seed: 1
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 200, train_size: 300}
stages:
  - train: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: {name: bit_width, weight_bits: [2, 4, 8], activation_bits: [8]}
      algorithm: {name: random, evaluations: 5}
      evaluate: [accuracy, cost]
      objectives: {top1: maximize}
      target: {size_bytes: "<= 20%"}
      baselines: [uniform]
      finalists: {count: 2, training: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.01}, distillation: {}}}
"""


def trial(number: int, value: int, **metrics: float) -> Trial:
    return Trial(number, Proposal(Candidate({"a": value})), "complete", metrics)


def problem(*objectives: Objective) -> Problem:
    return Problem(MaskSpace(), objectives, [], {})


def test_the_best_are_chosen_each_candidate_once() -> None:
    one = problem(Objective("top1", "maximize"))
    trials = [trial(0, 1, top1=0.5), trial(1, 2, top1=0.9), trial(2, 2, top1=0.9), trial(3, 3, top1=0.7)]
    assert [entry.number for entry in choose_finalists(trials, one, 2)] == [1, 3]
    assert [entry.number for entry in choose_finalists(trials, one, 9)] == [1, 3, 0]


def test_with_two_objectives_they_are_spread_over_the_front() -> None:
    two = problem(Objective("top1", "maximize"), Objective("cost", "minimize"))
    trials = [trial(number, number, top1=number / 10, cost=number) for number in range(5)]
    assert [entry.number for entry in choose_finalists(trials, two, 3)] == [4, 2, 0]
    assert [entry.number for entry in choose_finalists(trials, two, 1)] == [4]


@pytest.mark.usefixtures("no_pictures")
def test_a_stage_trains_them_and_delivers_the_best(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    EVENTS.clear()
    trackers = "execution.trackers=[{tests.search.tracking.recorder.Recorder: {}}]"
    report: dict[str, Any] = run(load(path, [trackers]), tmp_path / "tiny", None)
    (search,) = report["searches"]
    rows = search["finalists"]
    assert len({row["fingerprint"] for row in rows}) == 2
    told = [(event[1], event[2]) for event in EVENTS if event[0] == "epoch" and event[1].startswith("1-search")]
    names = [*(f"1-search (finalist {row['trial']})" for row in rows), "1-search (uniform)"]
    assert told == [(name, number) for name in names for number in (1, 2)]
    best = max(rows, key=lambda row: row["search_score"])
    assert (search["chosen"], search["fingerprint"]) == (best["trial"], best["fingerprint"])
    chosen = next(row for row in search["trials"] if row["trial"] == best["trial"])
    assert search["metrics"]["top1"] == pytest.approx(chosen["metrics"]["top1"])
    assert report["result"]["loss"] < report["baselines"]["uniform"]["loss"] * 3
    assert not (tmp_path / "tiny" / "checkpoints" / "1-search" / "result" / "finalists").exists()


@pytest.mark.slow
def test_a_cut_off_stage_goes_on_from_what_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    whole = run(load(path), tmp_path / "whole", None)
    import search.stages.search.finalists as module

    trained: list[int] = []
    real = module.train

    def cut(*args: Any, **options: Any) -> Any:
        trained.append(len(trained))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(module, "train", cut)
    with pytest.raises(KeyboardInterrupt):
        run(load(path), tmp_path / "cut", None)
    assert list((tmp_path / "cut" / "checkpoints" / "1-search" / "result" / "finalists").iterdir())
    resumed = run(load(path), tmp_path / "cut", None)
    for name in ("result", "pareto", "bits"):
        assert resumed[name] == whole[name]
    assert resumed["searches"][0]["finalists"] == whole["searches"][0]["finalists"]


def test_a_finalist_that_fails_is_passed_over_and_a_score_of_nan_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {nn.Identity: math.nan, nn.ReLU: 0.5, nn.Tanh: 0.4}
    found = [ValueError("no gradient"), *((Network(kind()), score) for kind, score in scores.items())]

    def trained(finalist: Finalist, *_: object) -> tuple[Network, float]:
        assert finalist.trial is not None
        one = found[finalist.trial]
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(finalists, "_trained", trained)
    task, stopwatch = SimpleNamespace(score_name="top1", score_sign=1.0), SimpleNamespace(save=lambda: None)
    run_of_stage: Any = SimpleNamespace(log=Log(None, None), label="search", task=task, stopwatch=stopwatch, notes={})
    entries = [Finalist(Proposal(Candidate({"a": place})), trial=place) for place in range(4)]
    nothing: Any = None
    place, network = train_finalists(entries, nothing, nothing, run_of_stage)
    assert (place, type(network.model)) == (2, nn.ReLU)
    rows = run_of_stage.notes["finalists"]
    assert [(row["search_score"], row.get("error")) for row in rows[2:]] == [(0.5, None), (0.4, None)]
    assert (rows[0]["search_score"], rows[0]["error"]) == (None, "ValueError: no gradient")
    with pytest.raises(SecateursError, match="the training of every finalist failed; the last one: ValueError: no gradient"):
        train_finalists(entries[:1], nothing, nothing, run_of_stage)
