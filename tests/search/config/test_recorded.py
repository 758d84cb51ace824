"""A configuration in the form of a record that an earlier version has written."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from search.config.loading import Config, load
from search.config.recorded import as_recorded

TEXT = """
name: aged
task:
  model: {factory: spaces.networks.digits_cnn}
  data: {name: digits, search_size: 100}
stages:
  - train: {epochs: 2, batch_size: 50}
  - search:
      space: channel_mask
      algorithm: {name: genetic, generations: 2}
      evaluate: [accuracy, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 60%"}
  - retrain: {epochs: 2, batch_size: 50, distillation: {}}
"""

PLACES = (
    ("stages", 0, "train", "keep_epoch"),
    ("stages", 0, "train", "optimizer", "rates"),
    ("stages", 1, "search", "algorithm", "racing"),
    ("stages", 1, "search", "reconstruct"),
    ("stages", 2, "retrain", "distillation", "temperature"),
    ("task", "data", "augment"),
    ("task", "model", "init_seed"),
    ("storage",),
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return loaded(tmp_path)


def loaded(folder: Path, *overrides: str) -> Config:
    path = folder / "aged.yaml"
    path.write_text(TEXT)
    return load(path, overrides)


def without(data: Mapping[str, Any], *places: tuple[str | int, ...]) -> dict[str, Any]:
    found: Any = deepcopy(dict(data))
    for *above, key in places:
        inner = found
        for step in above:
            inner = inner[step]
        del inner[key]
    return dict(found)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: str(place[-1]))
def test_an_option_at_its_default_that_the_record_does_not_know_is_left_out(
    config: Config, place: tuple[str | int, ...]
) -> None:
    recorded = without(config.canonical(), place)
    assert as_recorded(config, recorded) == recorded


def test_all_of_them_at_once(config: Config) -> None:
    recorded = without(config.canonical(), *PLACES)
    assert as_recorded(config, recorded) == recorded


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("stages.train.keep_epoch=last", PLACES[0]),
        ("stages.train.optimizer.rates={classifier: 2.0}", PLACES[1]),
        ("stages.search.algorithm.racing={fidelities: [0.5]}", PLACES[2]),
        ("stages.search.reconstruct=false", PLACES[3]),
        ("stages.retrain.distillation.temperature=2.0", PLACES[4]),
        ("task.data.augment=false", PLACES[5]),
        ("task.model.init_seed=1", PLACES[6]),
        ("storage=sqlite:///trials.db", PLACES[7]),
    ],
)
def test_one_that_is_set_stays_while_others_are_left_out(override: str, place: tuple[str | int, ...], tmp_path: Path) -> None:
    config = loaded(tmp_path, override)
    others = [other for other in PLACES if other != place]
    assert as_recorded(config, without(config.canonical(), *PLACES)) == without(config.canonical(), *others)


def test_a_record_that_knows_all_changes_nothing(config: Config) -> None:
    assert as_recorded(config, config.canonical()) == config.canonical()


def test_stages_are_compared_by_place_and_name_and_blocks_by_name(config: Config) -> None:
    recorded = without(config.canonical(), PLACES[0])
    recorded["stages"] = [recorded["stages"][0], {"train": {}}]
    assert as_recorded(config, recorded) == without(config.canonical(), PLACES[0])
    recorded = without(config.canonical(), PLACES[0])
    recorded["stages"][1]["search"]["algorithm"] = {"name": "random", "evaluations": 3}
    assert as_recorded(config, recorded) == without(config.canonical(), PLACES[0])
