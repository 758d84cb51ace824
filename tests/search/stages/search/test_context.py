"""The setting of a search over one small network: what is built and how often, what is sought, and what a check leaves out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search.config import load
from search.output.progress import Log
from search.pipeline.rehearsal import rehearse
from search.pipeline.start import Start
from search.run.network import Network
from search.run.stage_run import DryRun, StageContext
from search.stages.search.context import SearchContext
from search.stages.search.settings import SearchSettings
from search.stages.search.stage import Search
from search.study.trial import Proposal
from spaces.bit_width import BitWidth
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask
from spaces.errors import SecateursError
from spaces.transformation import apply
from tests.integration.tiny_pipeline import write_config

CHANNELS = """\
name: context
seed: 3
task:
  model: {factory: spaces.networks.digits_cnn, arguments: {width: 4}}
  data: {name: digits, search_size: 64, train_size: 64}
stages:
  - search:
      space: channel_mask
      algorithm: {name: genetic, population: 4, generations: 2}
      evaluate: [{accuracy: {batch_norm_batches: 1}}, cost]
      objectives: {top1: maximize}
      target: {macs: "<= 60%", parameters: "<= 2500"}
"""
BITS = (
    CHANNELS.replace("channel_mask", "{name: bit_width, weight_bits: [2, 8], activation_bits: [8]}")
    .replace("{name: genetic, population: 4, generations: 2}", "progressive")
    .replace("[{accuracy: {batch_norm_batches: 1}}, cost]", "[{omega: {sensitivity: fisher, samples: 16}}, cost]")
    .replace("top1: maximize", "omega: minimize")
    .replace('macs: "<= 60%", parameters: "<= 2500"', 'size_bytes: "<= 60%"')
)


@pytest.fixture
def start_of(tmp_path: Path) -> Callable[[str], Start]:
    return lambda text: Start(load(write_config(tmp_path, text)))


def parts(start: Start) -> tuple[Network, StageContext, SearchSettings]:
    run = StageContext(
        step="0-search",
        seed=3,
        task=start.task,
        device=torch.device("cpu"),
        execution=start.config.execution,
        reference=start.network,
        log=Log(None, None),
        built=start.built,
    )
    return start.network, run, start.config.stages[0].settings


def test_relative_limits_are_of_the_reference_and_absolute_ones_stay(start_of: Callable[[str], Start]) -> None:
    context = SearchContext.of(*parts(start_of(CHANNELS)))
    space = context.problem.space
    assert isinstance(space, ChannelMask)
    limits = {target.metric: target.limit for target in context.targets}
    assert limits == {"macs": pytest.approx(0.6 * space.network_macs), "parameters": 2500.0}
    assert list(context.problem.targets) == list(context.targets)
    assert set(context.problem.tables) == {"importance", "samples"}
    assert {name: len(scores) for name, scores in context.problem.tables["importance"].items()} == {
        group.name: group.size for group in space.groups.groups
    }


def test_behind_a_stage_a_target_out_of_reach_becomes_the_smallest_cost(
    start_of: Callable[[str], Start], caplog: pytest.LogCaptureFixture
) -> None:
    text = CHANNELS.replace('"<= 60%"', '"<= 1%"')
    network, run, settings = parts(start_of(text))
    removed = Network(network.model, ({"kind": "sequence", "steps": []},))
    context = SearchContext.of(removed, run, settings)
    space = context.problem.space
    (macs,) = [target.limit for target in context.problem.targets if target.metric == "macs"]
    assert macs == space.costs(space.cheapest())["macs"]
    assert context.targets[0].limit == pytest.approx(0.01 * space.network_macs)
    assert "macs" in caplog.messages[0]
    assert "out of reach of the network that the stages before have left" in caplog.messages[0]
    assert caplog.records[0].levelname == "WARNING"


def test_the_realized_network_is_what_was_measured_and_its_record_rebuilds_it(start_of: Callable[[str], Start]) -> None:
    start = start_of(CHANNELS)
    context = SearchContext.of(*parts(start))
    candidate = context.problem.space.cheapest()
    before = start.network.digest()
    network, notes = context.realize(Proposal(candidate))
    assert notes["metrics"]["macs"] == context.problem.space.costs(candidate)["macs"]
    assert 0.0 <= notes["equivalence_error"] < 1e-8
    rebuilt = apply(start.task.build(), json.loads(json.dumps(network.transformations[-1])))
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == {n: t.shape for n, t in network.model.state_dict().items()}
    rows = context.rows(network, candidate)
    assert [row["kept"] for row in rows["layers"]] == [int(candidate.mask(row["name"]).sum()) for row in rows["layers"]]
    assert rows["bits"] == []
    assert {"classifier"} == {row["name"] for row in rows["frozen"]}
    assert start.network.digest() == before


def test_one_way_leads_from_a_candidate_to_its_network(start_of: Callable[[str], Start]) -> None:
    context = SearchContext.of(*parts(start_of(CHANNELS)))
    candidate = context.problem.space.sample(np.random.default_rng(0))
    made = context.evaluator.build(Proposal(candidate))
    direct = context.problem.space.realize(context.evaluator.model, candidate)
    assert all(torch.equal(t, direct.state_dict()[n]) for n, t in made.model.state_dict().items())
    assert made.transformation() == context.problem.space.transformation(candidate)
    assert (made.prepared, made.sparsifier) == (None, None)


def test_a_check_measures_no_sensitivity_and_solves_no_program(start_of: Callable[[str], Start], tmp_path: Path) -> None:
    network, run, settings = parts(start_of(BITS))
    run = replace(run, folder=tmp_path / "stage")
    checked = SearchContext.of(network, run, settings, dry=True)
    space = checked.problem.space
    assert isinstance(space, BitWidth)
    assert {value for entries in checked.problem.tables["omega"].values() for value in entries.values()} == {0.0}
    assert list(checked.problem.starts) == list(space.starting_points())
    assert not (tmp_path / "stage").exists()
    (tmp_path / "stage").mkdir()
    built = SearchContext.of(network, run, settings)
    assert max(value for entries in built.problem.tables["omega"].values() for value in entries.values()) > 0.0
    assert set(built.problem.starts) > set(space.starting_points())
    assert (tmp_path / "stage" / "sensitivity.json").exists()
    rows = built.rows(*_realized(built, space.cheapest()))
    assert {row["weight_bits"] for row in rows["bits"]} <= {2, 8, None}
    assert rows["layers"] == []


def _realized(context: SearchContext, candidate: Candidate) -> tuple[Network, Candidate]:
    return context.realize(Proposal(candidate))[0], candidate


def test_the_checks_and_the_run_take_one_space_for_one_network(
    start_of: Callable[[str], Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    original = ChannelMask.__init__

    def counted(self: ChannelMask, *arguments: Any, **named: Any) -> None:
        built.append(1)
        original(self, *arguments, **named)

    monkeypatch.setattr(ChannelMask, "__init__", counted)
    start = start_of(CHANNELS)
    lines = list(rehearse(start.config, start))
    assert sum("decisions open" in line for line in lines) == 1
    network, run, settings = parts(start)
    again = Network(start.task.build())
    again.model.load_state_dict(network.model.state_dict())
    context = SearchContext.of(Network(again.model.eval()), run, settings)
    assert len(built) == 1
    with torch.no_grad():
        next(again.model.parameters()).add_(1.0)
    other = SearchContext.of(again, run, settings)
    assert len(built) == 2
    assert other.problem.space is not context.problem.space
    start.built.forget("0-search")
    SearchContext.of(again, run, settings)
    assert len(built) == 3


def test_what_a_space_can_not_give_is_refused(start_of: Callable[[str], Start]) -> None:
    network, run, settings = parts(start_of(CHANNELS))
    with pytest.raises(SecateursError, match="no evaluator measures 'omega'"):
        SearchContext.of(network, run, replace(settings, objectives={"omega": "minimize"}))
    rounding = parts(start_of(CHANNELS.replace("[{accuracy: {batch_norm_batches: 1}}, cost]", "[accuracy, omega, cost]")))[2]
    with pytest.raises(SecateursError, match="rounds nothing; leave it out"):
        SearchContext.of(network, run, rounding)
    with pytest.raises(SecateursError, match="puts omega first"):
        SearchContext.of(network, run, replace(rounding, objectives={"omega": "minimize"}))


def test_a_check_returns_a_network_of_the_structure_of_a_candidate(start_of: Callable[[str], Start]) -> None:
    network, run, settings = parts(start_of(CHANNELS))
    dry = DryRun(**{field.name: getattr(run, field.name) for field in fields(run)})
    found = Search(settings).check(network, dry)
    assert dry.passed[0] == "0-search: 4 decisions open"
    (record,) = found.transformations
    assert record["kind"] == "slice_channels"
    assert sum(p.numel() for p in found.model.parameters()) < sum(p.numel() for p in network.model.parameters())
