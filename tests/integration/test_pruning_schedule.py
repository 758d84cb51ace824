"""A search over the schedule of probabilistic pruning, from the configuration to the report, and killed inside a trial."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import torch

from evaluators.batch_norm import recalibrate
from search.config import load
from search.export import load as load_network
from search.pipeline import run
from search.study.storage import open_journal
from spaces.sparsifiers.probabilistic import Probabilistic
from tests.integration.tiny_pipeline import read_report, timeless, write_config

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 100, train_size: 200}
stages:
  - train: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: {name: pruning_schedule, macs: [0.4], largest: [0.2, 0.9]}
      algorithm: {name: optuna, batch: 4, evaluations: 7, startup: 2, halving: {fidelities: [0.25, 0.5]}}
      evaluate: [{accuracy: {batch_norm_batches: 2}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 40%"}
      baselines: [random]
      training: {epochs: 4, batch_size: 50, optimizer: {name: sgd, lr: 0.05}}
      batch: 3
"""

PROBABILISTIC = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 100, train_size: 200}
stages:
  - train: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - sparse_training:
      sparsifier: {name: probabilistic, largest: 0.9, ratio: 0.5}
      epochs: 3
      batch_size: 50
      optimizer: {name: sgd, lr: 0.05}
"""


class Kill(BaseException):
    pass


@pytest.mark.slow
def test_a_search_over_the_schedule_ends_the_same_when_killed_inside_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(write_config(tmp_path, CONFIG))
    run(config, tmp_path / "whole")
    report = read_report(tmp_path / "whole")
    assert report["target_met"] is True
    assert report["result"]["macs"] <= 0.4 * report["reference"]["macs"]
    assert [trial["fidelity"] for trial in report["searches"][0]["trials"]] == [0.25] * 4 + [0.5] * 2 + [1.0]
    assert report["baselines"]["random"]["macs"] <= 0.4 * report["reference"]["macs"]
    storage = open_journal(tmp_path / "whole" / "study.journal")
    studies = [optuna.load_study(study_name=f"tiny/1-search{name}", storage=storage) for name in ("", "/random")]
    # After the space's own starts, which both begin with.
    first, second = ([trial.user_attrs["candidate"] for trial in study.trials[2:4]] for study in studies)
    assert first != second
    (record,) = report["participation"]
    assert record["steps"][0] == 0
    assert set(map(len, record["values"])) == {len(record["layers"])}
    assert (tmp_path / "whole" / "figures" / "participation.png").exists()
    assert "Participation over time" in (tmp_path / "whole" / "report.html").read_text()
    assert sum(p.numel() for p in load_network(tmp_path / "whole").parameters()) == report["result"]["parameters"]
    assert not list((tmp_path / "whole").rglob("trial-*"))

    # Steps are counted over the training: the sixth is in the second epoch, that of the second rung.
    after_step, killed = Probabilistic.after_step, []

    def dies(self: Probabilistic) -> None:
        after_step(self)
        if self._step == 6 + 4 * len(killed) and len(killed) < 3:
            killed.append(self._step)
            raise Kill

    monkeypatch.setattr(Probabilistic, "after_step", dies)
    monkeypatch.setattr("search.report.figures.pictures.draw", lambda report: [])
    for _ in range(3):
        with pytest.raises(Kill):
            run(config, tmp_path / "cut")
    run(config, tmp_path / "cut")
    assert killed == [6, 10, 14]
    assert timeless(read_report(tmp_path / "cut")) == timeless(report)


@pytest.mark.usefixtures("no_pictures")
def test_sparse_training_removes_what_went_and_shows_it(tmp_path: Path) -> None:
    run(load(write_config(tmp_path, PROBABILISTIC)), tmp_path / "run")
    report = read_report(tmp_path / "run")
    assert all(2 * layer["kept"] == layer["channels"] for layer in report["layers"])
    assert report["equivalence_max_abs_error"] < 1e-8
    assert report["participation"][0]["stage"] == "1-sparse_training"
    assert report["remarks"] == []


@pytest.mark.usefixtures("no_pictures")
def test_what_is_removed_at_the_last_moment_has_statistics_of_its_own(tmp_path: Path) -> None:
    text = PROBABILISTIC.replace("ratio: 0.5", "ratio: 0.5, interval: 1000")
    config = load(write_config(tmp_path, text))
    run(config, tmp_path / "run")
    assert read_report(tmp_path / "run")["participation"][0]["values"][-2] == [[1.0] * 5] * 4
    model, task = load_network(tmp_path / "run"), config.build_task()
    again = load_network(tmp_path / "run")
    recalibrate(again, task.batches("train", 128, limit=128), task.forward)
    statistics = {name for name, _ in model.named_buffers() if "running" in name}
    assert statistics
    for name in statistics:
        torch.testing.assert_close(model.get_buffer(name), again.get_buffer(name))


@pytest.mark.usefixtures("no_pictures")
def test_columns_are_reported_as_no_saving(tmp_path: Path) -> None:
    text = PROBABILISTIC.replace("ratio: 0.5", "ratio: 0.5, groups: columns")
    config = load(write_config(tmp_path, text))
    run(config, tmp_path / "run")
    report = read_report(tmp_path / "run")
    assert report["result"]["macs"] == report["reference"]["macs"]
    assert "save no MACs" in report["remarks"][0]
    assert "save no MACs" in (tmp_path / "run" / "report.html").read_text()


def test_check_says_what_columns_do_not_save_and_what_is_out_of_reach(tmp_path: Path) -> None:
    from search.pipeline.rehearsal import rehearse

    text = PROBABILISTIC.replace("ratio: 0.5", "ratio: 0.5, groups: columns")
    assert any("save no MACs" in line for line in rehearse(load(write_config(tmp_path, text))))
    config = load(write_config(tmp_path, CONFIG.replace("<= 40%", "<= 30%")))
    with pytest.raises(Exception, match=r"target.macs: <= 30% .*lower space.macs to the target"):
        list(rehearse(config))
