"""Trainings on a GPU, and what runs there beside them; skipped without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluators.latency.latency import Latency, LatencySettings
from evaluators.training.average import EmaSettings
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.image_operations import RandAugmentSettings
from evaluators.training.loop import History, train
from evaluators.training.optimizers import OptimizerSettings, make_optimizer
from evaluators.training.settings import DistillationSettings, TrainingSettings
from search.config import load
from search.pipeline import run
from spaces.sparsifiers.gradient_cut import GradientCut, GradientCutSettings
from tests.evaluators.small_task import digits_task
from tests.integration.tiny_pipeline import write_config

DEVICE = torch.device("cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="there is no GPU"),
]
ADAMW = TrainingSettings(epochs=2, batch_size=32, optimizer=OptimizerSettings("adamw", lr=3e-3))
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "sgd in float32": {"optimizer": OptimizerSettings(lr=0.1, nesterov=True), "autocast": "off", "clip_norm": 1.0},
    "average and mixing": {"ema": EmaSettings(0.9), "mixup": 0.4, "cutmix": 1.0},
    "operations, parts and distillation": {
        "rand_augment": RandAugmentSettings(),
        "erasing": 0.3,
        "shards": 2,
        "distillation": DistillationSettings(),
    },
}
ONE_SHOT = """\
name: tiny
seed: 3
task:
  model: {{factory: spaces.networks.digits_cnn, arguments: {{width: 8}}}}
  data: {{name: digits, search_size: 200, train_size: 300}}
execution: {{device: {device}}}
stages:
  - train: {{epochs: 3, batch_size: 50, optimizer: {{name: sgd, lr: 0.1}}}}
  - search:
      space: channel_mask
      algorithm: {{name: genetic, population: 6, generations: 2}}
      evaluate: [accuracy, cost]
      objectives: {{top1: maximize}}
      target: {{macs: "<= 60%"}}
      reconstruct: {{images: 200}}
"""


def trained(
    settings: TrainingSettings, until: int | None = None, path: Path | None = None
) -> tuple[dict[str, Tensor], History]:
    task = digits_task(train_size=256)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, teacher = task.build(), task.build()
    history = train(
        model,
        task,
        settings,
        seed=3,
        device=DEVICE,
        teacher=teacher if settings.distillation is not None else None,
        checkpoint=None if path is None else FileCheckpoint(path),
        until=until,
    )
    assert all(parameter.device.type == DEVICE.type for parameter in model.parameters())
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, history


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_killed_training_goes_on_to_the_same_bits(recipe: str, tmp_path: Path) -> None:
    settings = replace(ADAMW, **RECIPES[recipe])
    whole, history = trained(settings)
    assert history.epochs[-1].loss < history.epochs[0].loss
    trained(settings, 1, tmp_path / "state")
    again, _ = trained(settings, path=tmp_path / "state")
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


def test_weights_are_updated_by_one_kernel() -> None:
    optimizer = make_optimizer(digits_task().build().to(DEVICE), ADAMW.optimizer)
    assert optimizer.defaults["fused"] is (True if DEVICE.type == "cuda" else None)


@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_train_the_same_network() -> None:
    settings = replace(ADAMW, autocast="off", epochs=1)
    # Dropout draws otherwise in compiled steps.
    plain, compiled = (trained(replace(settings, compile=compile_))[1].epochs[0].loss for compile_ in (False, True))
    assert compiled == pytest.approx(plain, rel=0.2)


def test_a_sparsifier_cuts_channels() -> None:
    task = digits_task(train_size=256)
    sparsifier = GradientCut(GradientCutSettings(ratio=0.4))
    train(task.build(), task, ADAMW, seed=3, device=DEVICE, sparsifier=sparsifier)
    assert any(not mask.all() for mask in sparsifier.keep_masks().values())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["eager", "compile"])
def test_latency_is_measured(backend: str) -> None:
    task = digits_task()
    latency = Latency(LatencySettings(backend=backend, device=DEVICE.type, warmup=2, repetitions=5))  # type: ignore[arg-type]
    (timing,) = latency.timings([task.build().eval()], task)
    assert timing.median > 0


def test_a_search_with_reconstruction_runs_to_its_end(tmp_path: Path) -> None:
    report = run(load(write_config(tmp_path, ONE_SHOT.format(device=DEVICE.type))), tmp_path / "runs")
    assert report["result"]["macs"] <= 0.6 * report["reference"]["macs"]
    assert report["result"]["top1"] > report["reference"]["top1"] - 0.1
