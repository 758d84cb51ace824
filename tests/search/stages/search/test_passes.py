from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators.base import EvaluationContext
from evaluators.cost import count_costs
from evaluators.divergence import Divergence, DivergenceSettings
from search.config import load as load_config
from search.config.document import ConfigError, to_yaml
from search.config.goal import parse_budgets
from search.export import load as load_best
from search.pipeline.pipeline import run
from search.pipeline.rehearsal import rehearse
from search.pipeline.resolve import resolutions
from search.run.steps import StageStep
from search.stages.search.passes import whole_rows
from search.stages.search.settings import SearchSettings
from spaces.errors import SecateursError
from spaces.layers.batch_norm import statistics_kept
from tests.integration.stage_pieces import HEAD

pytestmark = pytest.mark.usefixtures("no_pictures_in_module")

SEARCH = """\
  - search:
      space: {name: channel_mask, levels: {steps: 8, images: 32}}
      algorithm: {name: evolution, children: 3, generations: 2, steps: [[16, 1]]}
      evaluate: [{divergence: {samples: 32, pool: 100, batch_norm_batches: 1}}, cost]
      objectives: {divergence: minimize}
      target: {macs: "<= 30%"}
      reconstruct: {images: 64, positions: 2000}
      baselines: [uniform, random, dense_same_training]
"""
RETRAIN = "  - retrain: {epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.01}}\n"


def written(folder: Path, *options: str, retrain: bool = True, search: str = SEARCH) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"      {option}\n" for option in options)
    (folder / "tiny.yaml").write_text(HEAD + search + lines + (RETRAIN if retrain else ""))
    return folder / "tiny.yaml"


def settings(path: Path) -> list[SearchSettings]:
    return [block.settings for block in load_config(path).stages if block.name == "search"]


def of(folder: Path, step: str, variant: str = "result") -> tuple[torch.nn.Module, dict[str, Any]]:
    found = StageStep(folder / "run" / "checkpoints" / step / variant, "").load(load_config(folder / "tiny.yaml").build_task())
    assert found is not None
    return found[0].model, found[1]


@pytest.fixture(scope="module")
def iterated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("iterated")
    run(load_config(written(folder, "iterations: [60%, 30%]")), folder / "run")
    return folder


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounded")
    run(load_config(written(folder, "rounds: 2", retrain=False)), folder / "run")
    return folder


def test_iterations_are_searches_with_the_training_behind_between_them(tmp_path: Path) -> None:
    path = written(tmp_path, "iterations: [60%, 40%, 30%]")
    config = load_config(path)
    assert [block.name for block in config.stages] == ["search", "retrain"] * 3
    found = settings(path)
    assert [str(one.limits["macs"]) for one in found] == ["<= 60%", "<= 40%", "<= 30%"]
    assert [one.baselines != () for one in found] == [True, False, False]
    assert any("macs <= 30%" in line for line in rehearse(config))
    # What a run records reads to the same.
    (tmp_path / "again.yaml").write_text(to_yaml(config.canonical()))
    assert load_config(tmp_path / "again.yaml") == config


def test_rounds_come_down_by_one_factor_with_half_the_step(tmp_path: Path) -> None:
    path = written(tmp_path, "rounds: 3", "finalists: {count: 2, steps: [1]}")
    assert [block.name for block in load_config(path).stages] == ["search", "search", "search", "retrain"]
    found = settings(path)
    assert [one.space.settings.levels.steps for one in found] == [2, 4, 8]
    shares = [one.limits["macs"].value for one in found]
    assert shares == pytest.approx([0.3 ** (1 / 3), 0.3 ** (2 / 3), 0.3], abs=1e-5)
    assert [one.finalists is not None for one in found] == [False, False, True]


@pytest.mark.parametrize(
    ("options", "retrain", "place", "message"),
    [
        (["iterations: [60%, 40%]"], True, "search.iterations", "shares that fall to that of the target, <= 30%; got 60%, 40%"),
        (["iterations: [20%, 30%]"], True, "search.iterations", "got 20%, 30%"),
        (["iterations: [60%, 30%]"], False, "search.iterations", "which must be `retrain`, and nothing is there"),
        (["iterations: [60%, 30%]", "rounds: 2"], True, "search.rounds", "rounds or iterations, got both"),
        (["rounds: 0"], True, "search.rounds", "at least 1, got 0"),
    ],
)
def test_passes_that_lead_nowhere_are_refused(
    options: list[str], retrain: bool, place: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, *options, retrain=retrain))
    assert place in str(caught.value)
    assert message in str(caught.value)


def test_rounds_over_bits_or_to_a_number_are_refused(tmp_path: Path) -> None:
    bits = SEARCH.replace("{name: channel_mask, levels: {steps: 8, images: 32}}", "bit_width")
    for search, message in ((bits, "bit_width quantizes"), (SEARCH.replace('"<= 30%"', '"<= 9000"'), "a share of a cost")):
        with pytest.raises(ConfigError, match=message):
            load_config(written(tmp_path, "rounds: 2", search=search))


@pytest.mark.slow
def test_iterations_end_at_the_target_with_baselines_at_it_trained_as_often(iterated: Path) -> None:
    report = json.loads((iterated / "run" / "report.json").read_text())
    assert [one["stage"] for one in report["searches"]] == ["0-search", "2-search"]
    assert report["target"] == {"macs": "<= 30%"}
    assert report["target_met"]
    dense = report["reference"]["macs"]
    middle, _ = of(iterated, "0-search")
    inputs = load_config(iterated / "tiny.yaml").build_task().traced_inputs()
    assert 0.3 * dense < count_costs(middle, inputs)["macs"] <= 0.6 * dense
    assert report["result"]["macs"] <= 0.3 * dense
    for name in ("uniform", "random"):
        assert report["baselines"][name]["macs"] <= 0.3 * dense
        assert of(iterated, "0-search", name)[1]["target"]["macs"]["text"] == "<= 30%"
        assert {row["stage"] for row in report["baseline_histories"] if row["variant"] == name} == {"1-retrain", "3-retrain"}
    assert {row["stage"] for row in report["histories"]} == {"1-retrain", "3-retrain"}
    assert len(of(iterated, "0-search", "random")[1]["trials"]) == 2 * len(of(iterated, "0-search")[1]["trials"])
    # Of the dense network's channels, not of those that the first pass has left.
    layers = {row["name"]: row for row in report["layers"]}
    first = {row["name"]: row for row in report["searches"][0]["layers"]}
    assert {name: row["channels"] for name, row in layers.items()} == {name: row["channels"] for name, row in first.items()}
    assert all(row["kept"] <= first[name]["kept"] for name, row in layers.items())
    assert sum(row["kept"] for row in layers.values()) < sum(row["kept"] for row in first.values())
    assert load_best(iterated / "run", load_config(iterated / "tiny.yaml").build_task().build) is not None


def test_rounds_compare_and_solve_with_the_dense_network(rounded: Path) -> None:
    report = json.loads((rounded / "run" / "report.json").read_text())
    assert report["result"]["macs"] <= 0.3 * report["reference"]["macs"]
    last, notes = of(rounded, "1-search")
    assert statistics_kept(last)
    task = load_config(rounded / "tiny.yaml").build_task()
    dense, middle = task.build().eval(), of(rounded, "0-search")[0].eval()
    inputs = next(iter(task.batches("search", 50)))[0]
    with torch.no_grad():
        outputs = dense(inputs)
        errors = [float((model(inputs) - outputs).square().mean()) for model in (middle, last.eval())]
    assert errors[0] < errors[1]
    # The divergence of the result is that to the dense network: it holds what the first round has lost.
    evaluator = Divergence(DivergenceSettings(samples=32, pool=100, batch_norm_batches=1))
    context = EvaluationContext(task, torch.Generator(), torch.device("cpu"), 1.0, dense, {})
    assert notes["metrics"]["divergence"] == pytest.approx(evaluator.evaluate(last, context)["divergence"], rel=1e-4)


def test_a_pass_has_no_other_budget(rounded: Path) -> None:
    with pytest.raises(SecateursError, match="1-search is one of several searches of rounds or iterations"):
        resolutions(rounded / "run", parse_budgets(["macs<=20%"]), 0, None, "1-search")


@pytest.mark.slow
def test_a_cut_off_round_ends_the_same(rounded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(self: StageStep, network: Any, notes: Any) -> None:
        if self.folder.parent.name == "1-search" and self.folder.name == "result":
            raise Killed
        finish(self, network, notes)

    finish = StageStep.finish
    path = written(tmp_path, "rounds: 2", retrain=False)
    with monkeypatch.context() as patch:
        patch.setattr(StageStep, "finish", killed)
        with pytest.raises(Killed):
            run(load_config(path), tmp_path / "run")
    run(load_config(path), tmp_path / "run")
    first, second = ((folder / "run" / "best" / "weights.safetensors").read_bytes() for folder in (rounded, tmp_path))
    assert first == second


def test_channels_are_counted_before_the_first_cut() -> None:
    cuts = [
        {"kind": "slice_channels", "candidate": {"a": "1100", "b": "10", "c": "111"}},
        {"kind": "reconstruct"},
        {"kind": "slice_channels", "candidate": {"a": "10", "c": "110"}},
    ]
    rows = whole_rows([{"name": "c", "channels": 2, "kept": 1}], cuts)
    assert sorted(rows, key=lambda row: row["name"]) == [
        {"name": "a", "channels": 4, "kept": 1},
        {"name": "b", "channels": 2, "kept": 1},
        {"name": "c", "channels": 3, "kept": 1},
    ]
