"""Every space that is more than channel masks on Ray workers: the same trials, the same report and network as serially."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from search.config import load
from search.executors.ray_cluster import Share, connect
from search.executors.ray_settings import RaySettings
from search.pipeline import run
from tests.integration.stage_pieces import HEAD
from tests.integration.tiny_pipeline import read_report, timeless, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TRAINED = "epochs: 2, batch_size: 50, optimizer: {name: sgd, lr: 0.02}"
TWO = "objectives: {top1: maximize, size_bytes: minimize}"
SEARCHES = {
    "joint-nsga2": (
        "space: {name: joint, bits: {weight_bits: [2, 4, 8], activation_bits: [4, 8]}, calibration_samples: 64}, "
        "algorithm: {name: optuna, sampler: nsga2, population: 4, evaluations: 12}, "
        f'evaluate: [accuracy, cost], {TWO}, target: {{bit_operations: "<= 3%"}}, baselines: [random], batch: 4'
    ),
    "joint-genetic-finalists": (
        "space: {name: joint, bits: {weight_bits: [2, 4, 8], activation_bits: [4, 8]}, calibration_samples: 64}, "
        "algorithm: {name: genetic, population: 4, generations: 3, elite: 1}, "
        "evaluate: [{omega: {samples: 32, compare: false}}, accuracy, cost], objectives: {top1: maximize}, "
        'target: {size_bytes: "<= 14%", bit_operations: "<= 3%"}, batch: 4, '
        f"finalists: {{count: 2, training: {{{TRAINED}, distillation: {{}}}}}}"
    ),
    "channels-finalists-halved": (
        "space: channel_mask, algorithm: {name: random, evaluations: 6}, reconstruct: {images: 64}, "
        'evaluate: [accuracy, cost], objectives: {top1: maximize}, target: {macs: "<= 50%"}, batch: 4, '
        "baselines: [uniform, random], finalists: {count: 4, steps: [2, 5, 7]}"
    ),
    "bits-nsga2-trained": (
        "space: {name: bit_width, weight_bits: [2, 4, 8], activation_bits: [4, 8]}, "
        "algorithm: {name: optuna, sampler: nsga2, population: 4, evaluations: 8}, "
        f"evaluate: [accuracy, cost], {TWO}, batch: 4, training: {{{TRAINED}, distillation: {{}}}}"
    ),
    "bits-progressive": (
        "space: {name: bit_width, weight_bits: [2, 4, 8], activation_bits: [8]}, "
        "algorithm: {name: progressive, candidates: 4, indicator: equal_saving, steps: 3}, "
        "evaluate: [{omega: {samples: 32, compare: false}}, accuracy, cost], objectives: {top1: maximize}, "
        f'target: {{bit_operations: "<= 4%"}}, training: {{{TRAINED}}}, batch: 4'
    ),
    "bits-halving": (
        "space: {name: bit_width, weight_bits: [2, 4, 8], activation_bits: [4, 8]}, "
        "algorithm: {name: optuna, sampler: tpe, batch: 4, evaluations: 14, halving: {fidelities: [0.5]}}, "
        f"evaluate: [accuracy, cost], objectives: {{top1: maximize}}, batch: 4, training: {{{TRAINED}}}"
    ),
    "filters-genetic": (
        "space: {name: filter_ratio, method: gradient_cut, levels: 10}, "
        "algorithm: {name: genetic, population: 4, generations: 2, elite: 1, racing: null}, evaluate: [accuracy, cost], "
        f'objectives: {{top1: maximize}}, target: {{macs: "<= 50%"}}, baselines: [uniform], batch: 4, training: {{{TRAINED}}}'
    ),
    "filters-tpe": (
        "space: {name: filter_ratio, per: layer, macs: 0.5}, algorithm: {name: optuna, evaluations: 12, startup: 4}, "
        "evaluate: [accuracy, cost], objectives: {top1: maximize}, batch: 4"
    ),
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Start one cluster for all tests here."""
    import ray

    settings = RaySettings(workers=2)
    connect(settings, Share.of(settings, threads=1))
    yield
    ray.shutdown()


@pytest.mark.parametrize("name", SEARCHES)
def test_workers_find_what_one_process_finds(tmp_path: Path, name: str) -> None:
    text = f"{HEAD}  - train: {{{TRAINED}}}\n  - search: {{{SEARCHES[name]}}}\n  - retrain: {{{TRAINED}}}\n"
    config = write_config(tmp_path, text)
    run(load(config), tmp_path / "serial")
    run(load(config, ["execution.executor=ray", "execution.workers=2"]), tmp_path / "ray")
    serial, found = read_report(tmp_path / "serial"), read_report(tmp_path / "ray")
    trials = serial["searches"][0]["trials"]
    assert len(trials) >= 4
    assert all(trial["state"] == "complete" for trial in trials), [trial.get("error") for trial in trials]
    assert found["searches"][0]["trials"] == trials
    assert timeless(found) == timeless(serial)
    best = [tmp_path / folder / "best" / "weights.safetensors" for folder in ("serial", "ray")]
    assert best[0].read_bytes() == best[1].read_bytes()
