"""Gradient cut, and a search for its ratios, from the configuration to the report; killed, they go on to the same end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.config import load
from search.export import load as load_best
from search.pipeline import run
from spaces.errors import SecateursError
from tests.integration.tiny_pipeline import finish, kill_when, read_report, start, timeless, write_config

HEAD = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 200, train_size: 300}
stages:
  - train: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
"""
CUT = (
    HEAD
    + """\
  - sparse_training:
      sparsifier: {name: gradient_cut, macs: 0.4}
      epochs: 4
      batch_size: 50
      optimizer: {name: sgd, lr: 0.05}
  - retrain: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
"""
)
SEARCH = (
    HEAD
    + """\
  - search:
      space: {name: filter_ratio, method: gradient_cut, levels: 10}
      algorithm: {name: genetic, population: 4, generations: 2, racing: null}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 40%"}
      training: {epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
      baselines: [uniform]
      batch: 4
  - retrain: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
"""
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the folder and the report of a run of each kind that was never stopped."""
    found = {}
    for name, text in {"cut": CUT, "search": SEARCH}.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = folder / "tiny", run(load(write_config(folder, text)), folder / "tiny", None)
    return found


@pytest.mark.parametrize("kind", ["cut", "search"])
def test_the_result_is_smaller_and_reported(whole: dict[str, tuple[Path, dict[str, Any]]], kind: str) -> None:
    folder, report = whole[kind]
    assert report["result"]["macs"] <= 0.4 * report["reference"]["macs"]
    assert report["equivalence_max_abs_error"] < 1e-6
    assert sum(parameter.numel() for parameter in load_best(folder).parameters()) == report["result"]["parameters"]
    assert any(layer["kept"] < layer["channels"] for layer in report["layers"])
    kept = report["retention"]["result"]
    assert 0.0 < kept["chosen"] < 1.0
    assert kept["retained"] > 0.0
    assert {layer["name"]: layer["kept"] for layer in kept["layers"]} == {
        layer["name"]: layer["kept"] for layer in report["layers"]
    }
    assert "Task-relevant features" in (folder / "report.html").read_text()
    assert (folder / "figures" / "retention.png").exists()
    if kind == "cut":
        assert [entry["stage"] for entry in report["output_changes"]] == ["1-sparse_training"]
        assert report["output_changes"][0]["max_abs_change"] < 1e-5
    if kind == "search":
        assert set(report["retention"]) == {"result", "uniform"}
        trials = report["searches"][0]["trials"]
        assert len(trials) == 8
        assert all(trial["state"] == "complete" and trial["feasible"] for trial in trials)
        assert report["baselines"]["uniform"]["macs"] <= 0.4 * report["reference"]["macs"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "text", "step"), [("cut", CUT, "1-sparse_training"), ("search", SEARCH, "1-search")])
def test_killed_it_ends_as_if_it_had_not_been(
    whole: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path, kind: str, text: str, step: str
) -> None:
    config, folder = write_config(tmp_path, text), tmp_path / "tiny"
    under_way = folder / "checkpoints" / step / "result"
    files = under_way / "training.safetensors" if kind == "cut" else under_way / "trials"
    kill_when(start(config, folder), files.exists)
    if kind == "search":
        journal = folder / "study.journal"
        kill_when(start(config, folder), lambda: journal.exists() and journal.read_bytes().count(b"\n") > 8)
    kill_when(start(config, folder), (folder / "checkpoints" / "2-retrain" / "result" / "key.json").exists)
    finish(start(config, folder))
    assert timeless(read_report(folder)) == timeless(whole[kind][1])


def test_trials_that_train_need_to_be_told_how(tmp_path: Path) -> None:
    text = "\n".join(line for line in SEARCH.splitlines() if "training:" not in line)
    with pytest.raises(SecateursError, match="expected search.training"):
        run(load(write_config(tmp_path, text)), tmp_path / "runs" / "tiny", None)
    assert not (tmp_path / "runs").exists()
