"""Two real Ray nodes on one machine: the command and a submitted job find what a serial run does, also without one of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.kill_harness import PIPELINE, launch, recorded
from tests.integration.tiny_pipeline import read_report, timeless, write_config
from tests.paths import REPOSITORY
from tests.processes import WORKER, processes
from tests.ray_nodes import RAY, SECOND, RayNodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# So slow that there is a middle in which a node can be lost.
SLOW = PIPELINE.replace("tests.integration.pausing.Pause", "{tests.integration.pausing.Pause: {seconds: 0.5}}")


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    running = RayNodes()
    yield running
    running.close()


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial")
    process = launch(write_config(folder, SLOW), folder / "runs", os.environ)
    assert process.wait(timeout=600) == 0, (folder / "output").read_text()
    return folder / "runs" / "tiny"


def run_on_cluster(config: Path, runs: Path, nodes: RayNodes, *before: str) -> subprocess.Popen[str]:
    overrides = ["execution.executor=ray", "execution.address=auto"]
    paths = f"PYTHONPATH={REPOSITORY}"
    command = ["env", paths, sys.executable, "-m", "search", "run", str(config), *overrides, "--runs", str(runs)]
    return subprocess.Popen(
        [*before, *command], env=nodes.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_the_command_finds_the_cluster_by_auto(tmp_path: Path, nodes: RayNodes, serial: Path) -> None:
    process = run_on_cluster(write_config(tmp_path, SLOW), tmp_path, nodes)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "2 nodes with 2 CPUs" in output
    assert timeless(read_report(tmp_path / "tiny")) == timeless(read_report(serial))


def test_a_submitted_job_outlives_a_node(tmp_path: Path, nodes: RayNodes, serial: Path) -> None:
    config, folder = write_config(tmp_path, SLOW), tmp_path / "tiny"
    submit = [RAY, "job", "submit", "--address", f"http://127.0.0.1:{nodes.dashboard_port}", "--"]
    process = run_on_cluster(config, tmp_path, nodes, *submit)
    deadline = time.monotonic() + 300

    def trials() -> int:
        return sum(map(len, recorded(folder).values()))

    while not (trials() >= 8 and processes(WORKER, nodes.pid(SECOND))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    nodes.lose_second()
    at_the_loss = trials()
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert at_the_loss < len(recorded(serial)["tiny/2-search"])
    assert recorded(folder) == recorded(serial)
    assert timeless(read_report(folder)) == timeless(read_report(serial))
    log = (folder / "log.txt").read_text()
    assert "its worker was lost" in log or "the cluster is 1 node with 1 CPUs" in log
