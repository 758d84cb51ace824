"""A score as the budget: the smallest network that keeps it, found alike after a kill, and the nearest one where none does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.config import load
from search.pipeline import run
from search.stages.search.bisection import TOLERANCE, Bisection, smallest
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


def narrowed(kept: Callable[[float], bool], step: float = 1.0) -> tuple[float, list[float]]:
    """Return the smallest cost that is found among multiples of ``step`` up to 1000, and the budgets that were tried."""
    tried: list[float] = []

    def within(budget: float) -> float | None:
        tried.append(budget)
        cost = budget // step * step
        return cost if kept(cost) else None

    return smallest(1000.0, float, 4.0, within), tried


@pytest.mark.parametrize("limit", [5.0, 87.0, 100.0, 640.0, 1000.0])
def test_the_smallest_cost_is_found_to_a_hundredth_of_itself(limit: float) -> None:
    found, tried = narrowed(lambda cost: cost >= limit)
    assert limit <= found <= max(limit * (1 + TOLERANCE), limit + 1)
    assert len(tried) < 18
    assert tried[-1] == pytest.approx((1 - 2 * TOLERANCE) * found)


def test_two_percent_below_a_gap_in_the_scores_is_gone_on_from() -> None:
    # From 500 to 503 the limit is missed by chance.
    found, _ = narrowed(lambda cost: cost >= 400 and not 500 <= cost < 503)
    assert 400 <= found <= 404


def test_equal_networks_for_many_budgets_end_the_bisection() -> None:
    found, tried = narrowed(lambda cost: cost >= 250, step=250.0)
    assert found == 250
    assert len(tried) < 12


def test_everything_keeps_a_limit_that_asks_for_nothing() -> None:
    assert narrowed(lambda cost: cost >= 4.0)[0] <= 5.0


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
    nearest = max(step["limit"] for step in lost if step["limit"] < note["limit"])
    assert 0.0 < note["limit"] - nearest <= TOLERANCE * report["reference"]["macs"]
    fingerprints = [trial["fingerprint"] for trial in search["trials"]]
    assert len(set(fingerprints)) == len(fingerprints), "no network is judged twice"
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
