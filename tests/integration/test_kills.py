"""Fifty kills at random moments of a whole pipeline: of the driver, of workers, of a node; each run ends as if there were none.

``SECATEURS_KILLS`` sets their number (50), of which two fifths hit serial runs; ``SECATEURS_KILLS_SEED`` sets other moments.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.kill_harness import PIPELINE, Ordeal, kill_driver, kill_one, launch
from tests.integration.tiny_pipeline import write_config
from tests.processes import WORKER, processes
from tests.ray_nodes import RayNodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("SECATEURS_KILLS", "50"))
SEED = int(os.environ.get("SECATEURS_KILLS_SEED", "0"))
SERIAL = 2 * KILLS // 5
LOCAL = 3 * KILLS // 10
NODES = KILLS - SERIAL - LOCAL


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Return the folder of a run that was left alone, and how long it took."""
    folder = tmp_path_factory.mktemp("whole")
    started = time.monotonic()
    process = launch(write_config(folder, f"{PIPELINE}execution: {{executor: serial}}\n"), folder / "runs", os.environ)
    assert process.wait(timeout=600) == 0, (folder / "output").read_text()
    return folder / "runs" / "tiny", time.monotonic() - started


@pytest.fixture
def nodes() -> Iterator[RayNodes]:
    running = RayNodes()
    yield running
    running.close()


def endured(ordeal: Ordeal, kills: int) -> None:
    ordeal.endure(kills)
    print(f"{ordeal.count}, {ordeal.runs} runs to their end")
    assert ordeal.hits == kills
    assert ordeal.runs >= 1


def test_serial(tmp_path: Path, whole: tuple[Path, float]) -> None:
    folder, seconds = whole
    blows = {"driver": kill_driver}
    endured(Ordeal(tmp_path, "{executor: serial}", folder, blows, random.Random(SEED), seconds), SERIAL)


def test_ray_on_this_machine(tmp_path: Path, whole: tuple[Path, float]) -> None:
    folder, seconds = whole
    rng = random.Random(SEED + 1)
    blows = {"driver": kill_driver, "worker": kill_one(lambda driver: processes(WORKER, driver.pid), rng)}
    endured(Ordeal(tmp_path, "{executor: ray, workers: 2, retries: 20}", folder, blows, rng, 2.0 * seconds), LOCAL)


def test_two_nodes(tmp_path: Path, whole: tuple[Path, float], nodes: RayNodes) -> None:
    folder, seconds = whole
    rng = random.Random(SEED + 2)

    def lose_node(driver: object) -> bool:
        if not nodes.pids(WORKER):
            return False
        nodes.lose_second()
        nodes.start_second()
        return True

    blows = {"driver": kill_driver, "worker": kill_one(lambda driver: nodes.pids(WORKER), rng), "node": lose_node}
    execution = f"{{executor: ray, address: '{nodes.address}', retries: 20}}"
    endured(Ordeal(tmp_path, execution, folder, blows, rng, seconds, nodes.environment), NODES)
