"""Tables of levels, evolution and reconstruction on real Ray workers: the same bytes for any number of them as for none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from search.config import load
from search.executors.ray_cluster import Share, connect
from search.executors.ray_settings import RaySettings
from search.pipeline import run
from tests.integration.killed_runs import differences, outcome
from tests.integration.stage_pieces import HEAD
from tests.integration.tiny_pipeline import read_report, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CONFIG = f"""{HEAD}\
  - train: {{epochs: 2, batch_size: 50, optimizer: {{name: sgd, lr: 0.05}}}}
  - search:
      space: {{name: channel_mask, levels: {{steps: 6, images: 64, divergence_images: 32}}}}
      algorithm: {{name: evolution, children: 5, generations: 3, steps: [[32, 2], [64, 1]]}}
      evaluate: [{{divergence: {{samples: 64, pool: 200, batch_norm_batches: 1}}}}, cost]
      objectives: {{divergence: minimize}}
      target: {{macs: "<= 40%"}}
      importance: second_order
      reconstruct: {{images: 64, positions: 4000}}
      baselines: [uniform, integer_program]
"""
TABLES = ("importance.json", "divergence.json")


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial")
    run(load(write_config(folder, CONFIG)), folder / "tiny", None)
    return folder / "tiny"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Start one cluster, with a CPU for each of four workers, for all tests here."""
    import ray

    settings = RaySettings(workers=4)
    connect(settings, Share.of(settings, threads=1))
    yield
    ray.shutdown()


def test_rounds_on_workers_find_what_one_process_finds(tmp_path: Path) -> None:
    outcomes = []
    for workers in (0, 2, 4):
        overrides = ["execution.executor=ray", f"execution.workers={workers}"] if workers else []
        folder = tmp_path / str(workers)
        folder.mkdir()
        config = write_config(folder, f"{CONFIG}      rounds: 2\n")
        run(load(config, overrides), folder / "tiny", None)
        outcomes.append(outcome(folder / "tiny"))
    assert [differences(one, outcomes[0]) for one in outcomes[1:]] == [[], []]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_finds_what_one_process_finds(serial: Path, tmp_path: Path, workers: int) -> None:
    config = write_config(tmp_path, CONFIG)
    run(load(config, ["execution.executor=ray", f"execution.workers={workers}"]), tmp_path / "tiny", None)
    assert differences(outcome(tmp_path / "tiny"), outcome(serial)) == []
    stage = next(path.parent for path in serial.rglob(TABLES[0])).relative_to(serial)
    for name in TABLES:
        assert (tmp_path / "tiny" / stage / name).read_bytes() == (serial / stage / name).read_bytes()
    report = read_report(tmp_path / "tiny")
    notes = [trial["algorithm"]["kind"] for trial in report["searches"][0]["trials"] if trial.get("algorithm")]
    assert notes.count("generation") == 3 or not notes
    assert report["target_met"]
