"""Latency known before a search: measured once, kept, and measured again for other networks or settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from evaluators.latency.backends.base import Conditions, Program
from evaluators.latency.latency import Latency, LatencySettings
from evaluators.latency.timers import LayerRequest
from evaluators.latency.timing import Timing
from evaluators.tasks.classification import Classification
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import Digits, DigitsSettings
from search.stages.search.latency_tables import SIZES, LatencyTables
from spaces.channel_mask import ChannelMask
from spaces.errors import SecateursError
from spaces.pruning_schedule import PruningSchedule
from tests.search.small_space import MaskSpace


class Counting:
    """A machine on which a layer takes 1 us per thousand products of its channels, and any network half a millisecond."""

    def __init__(self) -> None:
        self.networks = self.layers = 0

    def time(self, programs: Sequence[Program], conditions: Conditions) -> list[Timing]:
        self.networks += len(programs)
        return [Timing(0.5, 0.4, 0.6, 9)] * len(programs)

    def time_layers(self, requests: Sequence[LayerRequest], conditions: Conditions) -> list[float]:
        self.layers += len(requests)
        return [1e-3 * one.shape.in_channels * one.shape.out_channels for one in requests]

    def machine(self, conditions: Conditions) -> str:
        return "a machine of the tests"


@pytest.fixture(scope="module")
def task() -> Classification:
    data = Digits(DigitsSettings(search_size=64, train_size=64))
    return Classification(ModelSettings("spaces.networks.digits_cnn", {"width": 4}), data)


@pytest.fixture(scope="module")
def model(task: Classification) -> nn.Module:
    return task.reference_model().eval()


def tables(
    task: Classification, model: nn.Module, folder: Path, cache: str = "cache", kept: bool = True, batch_size: int = 1
) -> tuple[LatencyTables, Counting, list[str]]:
    timer, told = Counting(), list[str]()
    settings = LatencySettings(
        mode="table", backend="eager", points=2, cache=str(folder / cache), batch_size=batch_size, repetitions=9
    )
    latency = Latency(settings, timer)
    return LatencyTables(latency, model, model, task, folder if kept else None, told.append), timer, told


def test_a_space_knows_the_latency_of_its_candidates_which_is_measured_once(
    task: Classification, model: nn.Module, tmp_path: Path
) -> None:
    first, timer, told = tables(task, model, tmp_path)
    space = ChannelMask(model, task.example_inputs())
    candidate = space.sample(np.random.default_rng(0))
    assert "latency_ms" not in space.costs(candidate)
    first.fit(space)
    assert told == [f"measuring layers and {len(SIZES)} whole networks in eager"]
    assert timer.layers > 0
    assert timer.networks == len(SIZES)
    known = space.costs(candidate)["latency_ms"]
    assert known > 0.0
    # From the folder alone: the cache is gone, and nothing is measured.
    shutil.rmtree(tmp_path / "cache")
    again, timer, told = tables(task, model, tmp_path)
    fresh = ChannelMask(model, task.example_inputs())
    again.fit(fresh)
    assert fresh.costs(candidate)["latency_ms"] == known
    assert (timer.layers, timer.networks, told) == (0, 0, [])


def test_the_reference_is_measured_once(task: Classification, model: nn.Module, tmp_path: Path) -> None:
    first, timer, _ = tables(task, model, tmp_path)
    assert [first.reference(), first.reference()] == [0.5, 0.5]
    assert timer.networks == 1
    shutil.rmtree(tmp_path / "cache")
    again, timer, _ = tables(task, model, tmp_path)
    assert again.reference() == 0.5
    assert timer.networks == 0


def test_other_settings_or_another_network_are_measured_again(task: Classification, model: nn.Module, tmp_path: Path) -> None:
    tables(task, model, tmp_path)[0].reference()
    other, timer, _ = tables(task, model, tmp_path, cache="other", batch_size=2)
    other.reference()
    assert timer.networks == 1
    wider = ModelSettings("spaces.networks.digits_cnn", {"width": 8})
    larger = Classification(wider, Digits(DigitsSettings(search_size=64, train_size=64)))
    another, timer, _ = tables(larger, larger.reference_model().eval(), tmp_path, cache="other")
    another.reference()
    assert timer.networks == 1


def test_without_a_folder_only_the_cache_keeps_what_was_measured(
    task: Classification, model: nn.Module, tmp_path: Path
) -> None:
    first, timer, _ = tables(task, model, tmp_path, kept=False)
    first.reference()
    assert timer.networks == 1
    assert not (tmp_path / "latency.json").exists()
    again, timer, _ = tables(task, model, tmp_path, kept=False)
    assert again.reference() == 0.5
    assert timer.networks == 0


def test_what_is_kept_is_plain_data(task: Classification, model: nn.Module, tmp_path: Path) -> None:
    found, _, _ = tables(task, model, tmp_path)
    found.reference()
    stored = json.loads((tmp_path / "latency.json").read_text())
    assert stored["reference"] == 0.5
    assert stored["of"]["points"] == 2


def test_a_space_without_layers_to_add_up_is_refused(task: Classification, model: nn.Module, tmp_path: Path) -> None:
    found, _, _ = tables(task, model, tmp_path)
    for space in (MaskSpace(), PruningSchedule(model, task.example_inputs())):
        with pytest.raises(SecateursError, match=f"{type(space).__name__} can't add up the latency.*expected mode: measured"):
            found.fit(space)
    measured = LatencyTables(Latency(LatencySettings(backend="eager"), Counting()), model, model, task, tmp_path, print)
    measured.fit(MaskSpace())
