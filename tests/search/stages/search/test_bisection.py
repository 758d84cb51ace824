"""A score as the budget: the smallest network that keeps it, found alike after a kill, and the nearest one where none does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.config import load
from search.pipeline import run
from search.stages.search.bisection import TOLERANCE, Bisection
from tests.integration.tiny_pipeline import read_report, timeless, write_config

CONFIG = """\
name: tiny
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 200, train_size: 400}
stages:
  - train: {epochs: 4, batch_size: 50, optimizer: {name: sgd, lr: 0.1}}
  - search:
      space: {name: channel_mask, levels: {steps: 8, images: 64, divergence_images: 64}}
      algorithm: {name: integer_program, gap: 0.01}
      evaluate: [{divergence: {samples: 64, pool: 200, batch_norm_batches: 2}}, cost]
      objectives: {divergence: minimize}
      target: {top1: ">= -4 points"}
      reconstruct: {images: 64, positions: 2000}
      baselines: [uniform]
"""
WEIGHTS = Path("best/weights.safetensors")


class Kill(BaseException):
    """A kill between two steps."""


def ran(folder: Path, *overrides: str) -> Path:
    run(load(write_config(folder, CONFIG), overrides), folder / "tiny", None)
    return folder / "tiny"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran(tmp_path_factory.mktemp("bisection"))


@pytest.mark.slow
def test_the_smallest_network_is_found_that_keeps_the_score(whole: Path) -> None:
    report = read_report(whole)
    target, (search,) = report["targets"]["top1"], report["searches"]
    assert target["limit"] == pytest.approx(target["before"] - 0.04)
    assert target["met"]
    assert report["target_met"]
    assert target["value"] >= target["limit"]
    assert 0.0 <= target["error"] < 0.05
    note = search["algorithm"]["bisection"]
    assert note["metric"] == "macs"
    kept = [step for step in note["steps"] if step["kept"]]
    lost = [step for step in note["steps"] if not step["kept"]]
    assert lost
    assert report["result"]["macs"] == note["limit"] == min(step["cost"] for step in kept)
    nearest = max(step["limit"] for step in lost)
    assert 0.0 < note["limit"] - nearest <= TOLERANCE * report["reference"]["macs"]
    assert report["result"]["macs"] < 0.9 * report["reference"]["macs"]
    assert len(search["trials"]) == len(note["steps"])
    assert report["baselines"]["uniform"]["macs"] <= note["limit"]
    assert "top-1 accuracy (search)" not in str(search["target"])


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 4])
def test_a_kill_between_steps_changes_nothing(after: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    original: Callable[..., Any] = Bisection._score

    def score(self: Bisection, *arguments: Any) -> Any:
        if len(done) == after:
            raise Kill
        done.append(arguments)
        return original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Bisection, "_score", score)
        with pytest.raises(Kill):
            ran(tmp_path)
    assert timeless(read_report(ran(tmp_path))) == timeless(read_report(whole))
    assert (tmp_path / "tiny" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_a_limit_out_of_reach_gives_the_nearest_and_names_it(tmp_path: Path) -> None:
    limits = 'stages.search.target={top1: ">= +90 points", macs: "<= 60%"}'
    folder = ran(tmp_path, limits, "stages.train.epochs=2")
    report = read_report(folder)
    assert not report["target_met"]
    assert report["targets"]["macs"]["met"]
    assert not report["targets"]["top1"]["met"]
    assert 0.5 < report["result"]["macs"] / report["reference"]["macs"] <= 0.6
    assert "target top1 >= +90 points is out of reach" in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_every_step_is_trained_where_that_is_asked_for(tmp_path: Path) -> None:
    training = "stages.search.finalists={training: {epochs: 1, batch_size: 50}}"
    report = read_report(ran(tmp_path, training, "stages.search.baselines=[]"))
    (search,) = report["searches"]
    assert report["targets"]["top1"]["met"]
    assert search["finalists"][0]["search_score"] == pytest.approx(report["targets"]["top1"]["value"])
