"""A pipeline that lowers bits step by step and trains in between: what comes out, and the same after a kill at any step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.config import load
from search.pipeline import run
from search.pipeline.rehearsal import rehearse
from spaces.errors import SecateursError
from tests.integration.tiny_pipeline import finish, kill_when, read_report, start, timeless, write_config

CONFIG = """\
name: bits
seed: 0
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 200, train_size: 128}
execution: {executor: serial}
stages:
  - train: {epochs: 1, batch_size: 32, optimizer: {name: sgd, lr: 0.05}}
  - search:
      space: {name: bit_width, weight_bits: [2, 4, 8], activation_bits: [8]}
      algorithm: {name: progressive, candidates: 3, indicator: equal_saving, steps: 2}
      evaluate: [{omega: {sensitivity: adam, samples: 32}}, {accuracy: {batch_norm_batches: 0}}, cost]
      objectives: {top1: maximize}
      target: {size_bytes: "<= 21%"}
      training: {epochs: 1, batch_size: 32, optimizer: {name: adamw, lr: 0.001}}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    config = write_config(folder, CONFIG)
    return folder, run(load(config), folder / "run")


def recorded(folder: Path) -> int:
    """Return how many trials a run has recorded."""
    journal = folder / "study.journal"
    return journal.read_text().count('"fingerprint"') if journal.exists() else 0


def test_bits_are_lowered_and_trained_until_the_target_is_met(whole):
    _, report = whole
    assert report["target_met"] is True
    (search,) = report["searches"]
    trials = search["trials"]
    trained = [trial for trial in trials if trial["fidelity"] == 1.0]
    assert trials[0]["fidelity"] == 0.0
    assert 1 <= len(trained) <= 3
    assert search["chosen"] == trained[-1]["trial"]
    assert all("omega" in trial["metrics"] for trial in trials)
    sizes = [trial["metrics"]["size_bytes"] for trial in trained]
    assert sizes == sorted(sizes, reverse=True)


def test_the_report_compares_the_kinds_of_sensitivity(whole):
    folder, report = whole
    found = report["searches"][0]["sensitivity"]
    assert found["kind"] == "adam"
    assert set(found["rows"][0]["predicted"]) == {"adam", "fisher", "hutchinson", "divergence"}
    assert all(row["standard_error"] >= 0.0 for row in found["rows"])
    pairs = {(one["first"], one["second"]) for one in found["correlations"]}
    assert {("adam", "fisher"), ("adam", "hutchinson"), ("fisher", "hutchinson"), ("hutchinson", "measured")} <= pairs
    page = (folder / "run" / "report.html").read_text()
    assert "rank correlation of" in page
    assert (folder / "run" / "figures" / "sensitivity_1-search.png").exists()
    omega = report["searches"][0]["omega"]
    assert (omega["sensitivity"], omega["moments"]) == ("adam", "measured")
    assert "since the training before it used sgd" in omega["text"]
    assert omega["text"].replace("'", "&#39;") in page
    assert omega["text"] in (folder / "run" / "log.txt").read_text()
    stored = json.loads((folder / "run" / "checkpoints" / "1-search" / "result" / "sensitivity.json").read_text())
    assert stored["settings"]["sensitivity"] == "adam"


@pytest.mark.slow
@pytest.mark.parametrize("after", [6])
def test_killed_it_goes_on_to_the_same_end(whole, tmp_path, after):
    _, report = whole
    config = write_config(tmp_path, CONFIG)
    kill_when(start(config, tmp_path / "run"), lambda: recorded(tmp_path / "run") >= after)
    finish(start(config, tmp_path / "run"))
    assert timeless(read_report(tmp_path / "run")) == timeless(report)


def test_an_algorithm_that_lacks_omega_says_what_to_add(tmp_path):
    text = CONFIG.replace("{omega: {sensitivity: adam, samples: 32}}, ", "")
    with pytest.raises(SecateursError, match=r"expected `omega` in search\.evaluate"):
        list(rehearse(load(write_config(tmp_path, text))))
