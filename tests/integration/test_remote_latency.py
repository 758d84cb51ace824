"""Latency measured on another node than the one that trains, on two real Ray nodes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.config import load
from search.config.extras import MissingExtraError
from search.pipeline.rehearsal import rehearse
from tests.integration.tiny_pipeline import SHORT, read_report, write_config
from tests.paths import REPOSITORY
from tests.ray_nodes import RayNodes

TIMED = SHORT.replace("cost]", "cost, {latency: {mode: MODE, resource: target, address: auto, repetitions: 10, points: 2}}]")
TIMED = TIMED.replace('target: {macs: "<= 60%"}', 'target: {macs: "<= 60%", latency_ms: "<= 99%"}')


def test_without_ray_the_resource_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(write_config(tmp_path, TIMED.replace("MODE", "table")))
    monkeypatch.setattr("search.config.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"ray, for stages\.1\.search\.evaluate\.2\.resource: target"):
        list(rehearse(config))


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    running = RayNodes("--num-cpus", "0", "--resources", '{"target": 1}')
    yield running
    running.close()


def command(what: str, config: Path, nodes: RayNodes, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "search", what, str(config), *options]
    environment = {**nodes.environment, "PYTHONPATH": str(REPOSITORY), "SECATEURS_CACHE": str(config.parent / "cache")}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("mode", "overrides"),
    [
        ("table", []),
        ("measured", []),
        ("measured", ["execution.executor=ray", "execution.address=auto", "execution.workers=1"]),
    ],
)
def test_latency_is_measured_on_the_node_with_the_resource(
    tmp_path: Path, nodes: RayNodes, mode: str, overrides: list[str]
) -> None:
    config = write_config(tmp_path, TIMED.replace("MODE", mode))
    ended = command("run", config, nodes, *overrides, "--runs", str(tmp_path / "runs"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = read_report(tmp_path / "runs" / "tiny")
    latency = report["latency"]
    assert latency["networks"]["result"]["median"] > 0.0
    assert report["result"]["latency_ms"] == latency["networks"]["result"]["median"]
    assert (latency["predicted"] is not None) == (mode == "table")
    assert all(trial["metrics"]["latency_ms"] > 0.0 for trial in report["searches"][0]["trials"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_resource_that_no_node_has_is_refused_by_check(tmp_path: Path, nodes: RayNodes) -> None:
    config = write_config(tmp_path, TIMED.replace("MODE", "table").replace("target, address", "elsewhere, address"))
    ended = command("check", config, nodes)
    assert ended.returncode == 2
    assert "has the resource 'elsewhere'; custom ones are: target" in ended.stderr
    assert "Traceback" not in ended.stderr
