"""Tables of levels: the order in which channels leave and the divergence of every level alone, kept in files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluators.reference_outputs import ReferenceOutputs
from search.config import load
from search.pipeline.pipeline import run as run_pipeline
from search.pipeline.start import Start
from search.stages.search.context import SearchContext
from search.stages.search.level_tables import LevelTables
from spaces.importance import criterion as importance
from tests.integration.tiny_pipeline import write_config
from tests.search.stages.search.test_context import CHANNELS, parts

PROGRAMME = CHANNELS.replace("{name: genetic, population: 4, generations: 2}", "integer_program").replace(
    "space: channel_mask", "space: {name: channel_mask, levels: {steps: 4, images: 32, divergence_images: 16}}"
)


@pytest.fixture
def context_of(tmp_path: Path) -> Callable[..., SearchContext]:
    """Builds the context of a search with files in ``stage``."""
    start = Start(load(write_config(tmp_path, PROGRAMME)))
    network, run, settings = parts(start)

    def build(dry: bool = False) -> SearchContext:
        return SearchContext.of(network, replace(run, folder=None if dry else tmp_path / "stage"), settings, dry=dry)

    (tmp_path / "stage").mkdir()
    return build


def _refuse(*given: Any, **named: Any) -> Any:
    raise AssertionError("made again")


def test_channels_leave_in_second_order_which_is_learnt_once(
    context_of: Callable[..., SearchContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = context_of().problem
    stored = json.loads((tmp_path / "stage" / "importance.json").read_text())
    assert stored["made_with"] == {"criterion": "second_order", "images": 32}
    norms = context_of(dry=True).problem.tables["importance"]
    assert any(not np.array_equal(values, norms[name]) for name, values in first.tables["importance"].items())
    monkeypatch.setattr(importance, "score", _refuse)
    again = context_of().problem.tables["importance"]
    assert all(np.array_equal(values, again[name]) for name, values in first.tables["importance"].items())


def test_divergence_falls_to_nothing_and_goes_on_behind_a_kill(
    context_of: Callable[..., SearchContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = context_of().problem
    table, file = whole.tables["divergence"], tmp_path / "stage" / "divergence.json"
    assert {name: len(values) for name, values in table.items()} == dict.fromkeys(whole.space.domains, 4)
    assert all(values[-1] == 0.0 and values[0] > 0.0 for values in table.values())
    before, measured = file.read_bytes(), ReferenceOutputs.distances
    file.unlink()
    left = 4

    def killed(outputs: ReferenceOutputs, model: nn.Module, places: Tensor, **options: Any) -> Tensor:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return measured(outputs, model, places, **options)

    monkeypatch.setattr(ReferenceOutputs, "distances", killed)
    with pytest.raises(KeyboardInterrupt):
        context_of()
    known = json.loads(file.read_text())["table"]
    assert len(known) == 1
    left = 3 * (len(table) - 1)
    assert context_of().problem.tables["divergence"] == table
    assert (left, file.read_bytes()) == (0, before)


def test_a_check_learns_and_measures_nothing(context_of: Callable[..., SearchContext], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReferenceOutputs, "distances", _refuse)
    problem = context_of(dry=True).problem
    assert {value for values in problem.tables["divergence"].values() for value in values} == {0.0}


def test_a_space_without_keep_masks_has_no_order(context_of: Callable[..., SearchContext]) -> None:
    found = context_of(dry=True)

    class Closed:
        channels = found.problem.space.channels
        domains: dict[str, Any] = {}

    space: Any = Closed()
    tables = LevelTables(space, nn.Identity(), found.evaluator.task, torch.device("cpu"), None, print, print)
    assert tables.importance("second_order") == {}


def test_a_search_by_the_programme_reports_it_beside_the_same_baseline(tmp_path: Path) -> None:
    text = PROGRAMME + "      baselines: [integer_program, uniform]\n"
    report = run_pipeline(load(write_config(tmp_path, text)), tmp_path / "run")
    (found,) = report["searches"]
    (programme,) = found["algorithm"]["programmes"]
    assert 0.0 <= programme["gap"] < 1e-6
    assert programme["bound"] <= programme["divergence"] + 1e-6
    assert set(report["baselines"]) == {"integer_program", "uniform"}
    assert report["target_met"]
    assert "Integer programs" in (tmp_path / "run" / "report.html").read_text()
