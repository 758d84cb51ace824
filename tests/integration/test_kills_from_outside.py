"""Killed in the middle of :func:`search.compress.compress` and of ``run --seeds N``, the same call again ends the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from search.compress import Compressed, compress
from tests.integration.tiny_pipeline import SHORT, finish, kill_when, read_report, start_call, timeless, write_config

pytestmark = pytest.mark.slow

SEARCH = {
    "space": {"name": "joint", "bits": {"weight_bits": [2, 4, 8], "activation_bits": [8]}, "calibration_samples": 64},
    "algorithm": {"name": "genetic", "population": 6, "generations": 4},
    "evaluate": [{"accuracy": {"batch_norm_batches": 2}}, "cost"],
    "objectives": {"top1": "maximize"},
    "target": {"size_bytes": "<= 15%"},
    "baselines": ["uniform"],
    "batch": 3,
}
OPTIMIZER = {"name": "sgd", "lr": 0.02}
STAGES = [
    {"search": SEARCH},
    {"retrain": {"epochs": 6, "batch_size": 25, "optimizer": OPTIMIZER, "distillation": {}, "early_stop": {"patience": 3}}},
    {"export": {"formats": ["onnx"]}},
]
BEST = ("weights.safetensors", "architecture.json", "model.onnx")


class Jittered(torch.utils.data.Dataset[Any]):
    """Digits that are moved about at every look, by torch's own generator, as the transforms of torchvision do."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        moved = torch.roll(self.images[index], int(torch.randint(-1, 2, ())), dims=-1)
        return moved + 0.05 * torch.randn_like(moved), int(self.labels[index])


def network() -> nn.Module:
    """Return a network of one's own, as trained as it will be."""
    torch.manual_seed(5)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)),
    )


def call(folder: Path) -> Compressed:
    """Make the call that is killed."""
    from sklearn.datasets import load_digits

    pictures, digits = load_digits(return_X_y=True)
    images = torch.tensor(pictures, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(digits)
    train = DataLoader(Jittered(images[:400], labels[:400]), batch_size=32, shuffle=True)
    search, test = (
        DataLoader(TensorDataset(images[part], labels[part]), batch_size=64) for part in (slice(400, 600), slice(600, 800))
    )
    return compress(network(), train, search, test, target={}, folder=folder, stages=STAGES, quiet=True)


def run_seeds(config: Path, runs: Path) -> None:
    """Be the command ``run CONFIG --runs RUNS --seeds 3``."""
    from search.cli import app

    app(["run", str(config), "--runs", str(runs), "--seeds", "3"], standalone_mode=False)


def recorded(folder: Path) -> int:
    """Return about how many entries the journal of trials has."""
    journal = folder / "study.journal"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def assert_same_best(found: Path, whole: Path) -> None:
    for name in BEST:
        if (whole / "best" / name).exists():
            assert (found / "best" / name).read_bytes() == (whole / "best" / name).read_bytes(), name


def test_compress_killed_in_every_stage_returns_the_same_network(tmp_path: Path) -> None:
    # The folder's name is the run's, and stands in the report.
    whole, folder = tmp_path / "whole" / "mine", tmp_path / "killed" / "mine"
    finish(start_call(call, whole))
    steps = folder / "checkpoints"
    kill_when(start_call(call, folder), lambda: recorded(folder) > 12)
    kill_when(start_call(call, folder), lambda: recorded(folder) > 24)
    kill_when(start_call(call, folder), lambda: (steps / "1-retrain" / "result" / "training.safetensors").exists())
    kill_when(start_call(call, folder), lambda: (steps / "1-retrain" / "uniform" / "training.safetensors").exists())
    assert not (folder / "report.json").exists()
    finish(start_call(call, folder))
    assert timeless(read_report(folder)) == timeless(read_report(whole))
    assert_same_best(folder, whole)
    # In this process, the same call returns from the folder what the killed ones have come to.
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found, expected = call(folder), call(whole)
    assert found.report == read_report(folder)
    assert torch.equal(found.model(inputs), expected.model(inputs))


def test_seeds_killed_in_each_and_between_them_are_the_same_seeds(tmp_path: Path) -> None:
    config, runs = write_config(tmp_path, SHORT), tmp_path / "runs"
    finish(start_call(run_seeds, config, tmp_path / "whole"))
    first, second, third = (runs / name for name in ("tiny", "tiny-seed-4", "tiny-seed-5"))
    kill_when(start_call(run_seeds, config, runs), lambda: recorded(first) > 12)
    kill_when(start_call(run_seeds, config, runs), lambda: (first / "report.json").exists())
    kill_when(start_call(run_seeds, config, runs), lambda: recorded(second) > 12)
    assert "seeds" not in read_report(first)
    kill_when(start_call(run_seeds, config, runs), lambda: (third / "config.yaml").exists())
    kill_when(start_call(run_seeds, config, runs), lambda: (third / "best" / "weights.safetensors").exists())
    finish(start_call(run_seeds, config, runs))
    whole = read_report(tmp_path / "whole" / "tiny")
    assert [run["seed"] for run in whole["seeds"]] == [3, 4, 5]
    assert timeless(read_report(first)) == timeless(whole)
    for folder in (first, second, third):
        undisturbed = tmp_path / "whole" / folder.name
        assert_same_best(folder, undisturbed)
        assert timeless(read_report(folder)) == timeless(read_report(undisturbed))
    assert "<h2>Seeds</h2>" in (first / "report.html").read_text()
