"""Time, memory and disk of a run, as a check estimates them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from search.config.loading import load
from search.pipeline import estimate as module
from search.pipeline.estimate import Passage, estimate, training_seconds
from search.pipeline.start import Start
from search.run.network import Network
from search.stages.base import placed_stages
from tests.paths import REPOSITORY


@pytest.fixture(scope="module")
def start() -> Start:
    return Start(load(REPOSITORY / "configs" / "quickstart.yaml"))


def test_times_are_multiplied_by_networks_and_added_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "training_seconds", lambda *_: 10.0)
    monkeypatch.setattr(module, "pass_seconds", lambda *_: 0.01)
    search = next(placed for placed in placed_stages(start.config) if placed.stage.searches)
    lines = list(estimate(start.config, start, [Passage(search, start.network, [("at most 320 trials", 30.0)])]))
    assert lines[0] == "0-train: about 10 s (training, 1 network 10 s)"
    assert lines[2] == "2-search: about 30 s (at most 320 trials 30 s)"
    assert lines[3] == "3-retrain: about 30 s (training, 3 networks 30 s)"
    # 10 + 10 + 30 + 30, and four networks on 450 test samples.
    assert lines[-1].startswith("estimate for this machine as busy as now: 1 min 38 s, ")
    assert " of memory a process, " in lines[-1]


def test_a_training_is_its_steps_and_a_pass_an_epoch_and_the_network_is_left_alone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    trained: list[Any] = []

    def train(model: Any, task: Any, settings: Any, *, on_step: Callable[[int, int], None], **_: Any) -> None:
        trained.append(model)
        for step, seconds in enumerate((50.0, 3.0, 0.5, 0.5, 0.5, 4.0)):
            clock[0] += seconds
            on_step(step + 1, 100)

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module, "pass_seconds", lambda *_: 0.01)
    settings = next(iter(placed_stages(start.config)[0].stage.trainings.values()))
    network: Network = start.network
    # 15 epochs of 16 steps of the mean of four, the first two left out, and of 300 samples of the search split.
    assert training_seconds(network, start.task, settings, start) == pytest.approx(15 * (16 * 1.375 + 3.0))
    assert trained[0] is not network.model
