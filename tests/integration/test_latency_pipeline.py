"""Latency as an objective and a target: of a table for candidates, measured for what is delivered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import evaluators.latency.latency
from evaluators.latency.backends.base import Conditions, Program
from evaluators.latency.timers import LayerRequest
from evaluators.latency.timing import Timing
from search.config import load
from search.pipeline import run
from search.pipeline.rehearsal import rehearse
from spaces.errors import SecateursError
from tests.integration.stage_pieces import HEAD
from tests.integration.tiny_pipeline import read_report, write_config

ALGORITHMS = {
    "genetic": "{name: genetic, population: 4, generations: 2, elite: 1}",
    "optuna": "{name: optuna, evaluations: 6}",
    "random": "{name: random, evaluations: 6}",
}


def config(algorithm: str, mode: str, space: str = "channel_mask", backend: str = "eager") -> str:
    """Return a pipeline that is to be fast; networks are exported for PyTorch in a fraction of the time that ONNX takes."""
    latency = f"{{latency: {{mode: {mode}, backend: {backend}, points: 2, repetitions: 5}}}}"
    return f"""{HEAD}  - search:
      space: {space}
      algorithm: {ALGORITHMS[algorithm]}
      evaluate: [{{accuracy: {{batch_norm_batches: 1}}}}, cost, {latency}]
      objectives: {{top1: maximize, latency_ms: minimize}}
      target: {{latency_ms: "<= 90%"}}
      baselines: [random]
      batch: 4
"""


class Exact:
    """Takes a microsecond per thousand bytes of the exported network, and a nanosecond per pair of a layer's channels."""

    calls = 0

    def time(self, programs: Sequence[Program], conditions: Conditions) -> list[Timing]:
        Exact.calls += len(programs)
        return [Timing(len(one.content) / 1e6, 0.0, 1.0, conditions.repetitions) for one in programs]

    def time_layers(self, requests: Sequence[LayerRequest], conditions: Conditions) -> list[float]:
        return [one.shape.in_channels * one.shape.out_channels * (one.weight_bits / 32) * 1e-6 for one in requests]

    def machine(self, conditions: Conditions) -> str:
        return "exact"


@pytest.fixture
def exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEURS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluators.latency.latency, "LocalTimer", Exact)


def ran(folder: Path, text: str) -> dict[str, Any]:
    run(load(write_config(folder, text)), folder / "run")
    return read_report(folder / "run")


@pytest.mark.usefixtures("exact", "no_pictures")
@pytest.mark.parametrize(
    "algorithm", ["genetic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("optuna", "random"))]
)
def test_searches_seek_the_latency_of_the_table_and_the_report_measures_it(tmp_path: Path, algorithm: str) -> None:
    report = ran(tmp_path, config(algorithm, "table"))
    latency, search = report["latency"], report["searches"][0]
    assert latency["machine"] == "exact"
    assert set(latency["networks"]) == {"reference", "result", "random"}
    assert report["result"]["latency_ms"] == latency["networks"]["result"]["median"]
    assert latency["predicted"] == search["metrics"]["latency_ms"]
    assert latency["error"] == pytest.approx(latency["predicted"] / report["result"]["latency_ms"] - 1.0)
    target, (before, after) = report["targets"]["latency_ms"], (report[role]["latency_ms"] for role in ("reference", "result"))
    assert target["limit"] == pytest.approx(0.9 * before)
    assert (target["value"], target["met"]) == (after, after <= 0.9 * before)
    assert target["searched"] == {
        "limit": search["target"]["latency_ms"],
        "value": search["metrics"]["latency_ms"],
        "met": True,
    }
    assert report["target_met"] is target["met"] is True
    assert search["metrics"]["latency_ms"] <= search["target"]["latency_ms"]
    assert all(point["latency_ms"] > 0.0 for point in search["pareto"])
    stored = json.loads((tmp_path / "run" / "checkpoints" / "0-search" / "latency.json").read_text())
    assert search["target"]["latency_ms"] == pytest.approx(0.9 * stored["reference"])
    assert "<h2>Latency</h2>" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("exact")
def test_a_run_that_goes_on_knows_the_table_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = ran(tmp_path, config("random", "table"))
    whole = tmp_path / "run" / "checkpoints" / "0-search"
    for path in (whole / "result" / "network.safetensors", whole / "random" / "network.safetensors"):
        path.unlink()
    monkeypatch.setattr(Exact, "time_layers", None)
    monkeypatch.setenv("SECATEURS_CACHE", str(tmp_path / "another"))
    again = ran(tmp_path, config("random", "table"))
    assert again["searches"] == report["searches"]


@pytest.mark.slow
@pytest.mark.usefixtures("exact")
def test_bits_have_a_latency_too(tmp_path: Path) -> None:
    bits = "{name: bit_width, weight_bits: [4, 8], activation_bits: [8], first_last_bits: null}"
    text = config("optuna", "table", bits, "onnxruntime")
    report = ran(tmp_path, text.replace('latency_ms: "<= 90%"', 'size_bytes: "<= 60%"'))
    metrics = [trial["metrics"]["latency_ms"] for trial in report["searches"][0]["trials"]]
    assert len(set(metrics)) > 1


@pytest.mark.slow
@pytest.mark.usefixtures("exact")
def test_candidates_are_measured_one_by_one_where_that_is_the_mode(tmp_path: Path) -> None:
    before = Exact.calls
    report = ran(tmp_path, config("random", "measured"))
    assert Exact.calls - before >= len(report["searches"][0]["trials"])
    assert report["latency"]["predicted"] is None
    assert report["latency"]["error"] is None


@pytest.mark.slow
def test_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEURS_CACHE", str(tmp_path / "cache"))
    # Of a network this small the time is hardly that of its channels: no target on it can be relied on.
    text = config("random", "table", backend="onnxruntime")
    report = ran(tmp_path, text.replace('latency_ms: "<= 90%"', 'macs: "<= 80%"'))
    assert report["latency"]["networks"]["result"]["median"] > 0.0
    assert (tmp_path / "cache").is_dir()


@pytest.mark.parametrize("mode", ["measured", "table"])
@pytest.mark.usefixtures("exact")
def test_check_refuses_a_latency_that_the_smallest_network_exceeds(mode: str, tmp_path: Path) -> None:
    text = config("random", mode).replace("<= 90%", "<= 0.000001")
    with pytest.raises(SecateursError, match=r"target\.latency_ms: .* the smallest network in this space takes .* ms"):
        list(rehearse(load(write_config(tmp_path, text))))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("<= 97%", "latency_ms <= 97% is "),
        ("<= 87%", "warning: latency_ms <= 87% is "),
        ("<= 100000", "warning: latency_ms <= 100000.0 asks for nothing: the network before has "),
    ],
)
@pytest.mark.usefixtures("exact")
def test_check_tells_the_latency_of_the_network_and_warns_of_a_limit_that_it_keeps(
    limit: str, expected: str, tmp_path: Path
) -> None:
    text = config("random", "measured").replace("<= 90%", limit)
    told = list(rehearse(load(write_config(tmp_path, text))))
    (line,) = [line for line in told if "the network before has" in line]
    assert line.partition(": ")[2].startswith(expected), line
    assert " ms" in line
    assert (", the smallest in this space " in line) == ("asks for nothing" not in expected)
