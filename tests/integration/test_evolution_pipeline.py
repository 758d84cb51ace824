"""A whole search by evolution: a trial per generation, the last one in best/ and in the report, and the same after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.config import load
from search.executors.trial_evaluator import TrialEvaluator
from search.pipeline import run
from search.study.storage import open_journal
from tests.integration.tiny_pipeline import read_report, timeless, write_config

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 8}}
  data: {name: digits, search_size: 100, train_size: 400}
stages:
  - search:
      space: {name: channel_mask, levels: {steps: 8}}
      algorithm: {name: evolution, children: 4, generations: 3, steps: [[32, 2], [64, 1]]}
      evaluate: [{divergence: {samples: 64, pool: 400, batch_norm_batches: 2}}, cost]
      objectives: {divergence: minimize}
      target: {macs: "<= 40%"}
      importance: l2
      reconstruct: {images: 128, positions: 4000}
      baselines: [uniform]
"""


class Kill(BaseException):
    """A kill in the middle of a search."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("evolution")
    run(load(write_config(place, CONFIG)), place / "tiny", None)
    return place / "tiny"


def recorded(folder: Path) -> list[Any]:
    return optuna.load_study(study_name="tiny/0-search", storage=open_journal(folder / "study.journal")).trials


def test_a_generation_is_one_trial_with_what_was_compared(whole: Path) -> None:
    notes = [trial.user_attrs["algorithm"] for trial in recorded(whole)]
    assert [note["kind"] for note in notes] == ["start", "generation", "generation", "generation", "guard"]
    assert [[len(step["candidates"]) for step in note["steps"]] for note in notes[1:-1]] == [[4, 3]] * 3
    best = {row["fingerprint"]: row["score"] for row in notes[-1]["steps"][0]["candidates"]}
    assert recorded(whole)[-1].values == [min(best.values())]


def test_the_last_parent_lies_in_best_and_is_what_the_report_tells(whole: Path) -> None:
    report, last = read_report(whole), recorded(whole)[-1]
    (search,) = report["searches"]
    assert search["chosen"] == last.number == 4
    assert search["fingerprint"] == last.user_attrs["fingerprint"]
    assert report["target_met"]
    assert search["metrics"]["divergence"] > 0.0
    architecture = json.loads((whole / "best" / "architecture.json").read_text())
    assert architecture["provenance"]["fingerprint"] == last.user_attrs["fingerprint"]


@pytest.mark.parametrize("after", [3, pytest.param(9, marks=pytest.mark.slow), pytest.param(24, marks=pytest.mark.slow)])
def test_killed_within_a_generation_it_ends_alike(
    after: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder, done = load(write_config(tmp_path, CONFIG)), tmp_path / "tiny", []
    original: Callable[..., Any] = TrialEvaluator.evaluate

    def evaluate(self: TrialEvaluator, job: Any, *rest: Any) -> Any:
        if len(done) == after:
            raise Kill
        done.append(job)
        return original(self, job, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(TrialEvaluator, "evaluate", evaluate)
        with pytest.raises(Kill):
            run(config, folder, None)
    if len(recorded(folder)):
        kept = json.loads((folder / "best" / "architecture.json").read_text())
        assert kept["provenance"]["fingerprint"] in {trial.user_attrs["fingerprint"] for trial in recorded(folder)}
        assert kept["transformations"][-1]["kind"] == "reconstruct", "the best so far is kept without solved layers"
    run(config, folder, None)
    assert timeless(read_report(folder)) == timeless(read_report(whole))
    weights = Path("best") / "weights.safetensors"
    assert (folder / weights).read_bytes() == (whole / weights).read_bytes()
    shutil.rmtree(folder)
