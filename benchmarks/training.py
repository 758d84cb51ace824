"""Steps of the training loop against a bare PyTorch loop with the same recipe, on the same batches; ranks; reading of images.

    chrt -f 10 taskset -c 1 python -m benchmarks.training [--steps 20]
    python -m benchmarks.training --part ranks
    python -m benchmarks.training --part loader

ResNet-20 on images of 32 pixels and torchvision's ResNet-18 at 64 pixels, batches of 64 that are held in memory: SGD with
Nesterov's momentum, one cycle, label smoothing, channels-last layout, float32. Both take turns step by step, in one thread of
one process, so that a busy machine slows both; times are CPU seconds, batches and the look for losses that are no numbers
included. The ratio is the median over the steps of the loop's time over that of the bare step behind it.

The other parts are described in :mod:`benchmarks.training_ranks` and :mod:`benchmarks.image_loading`. Each part writes its
numbers into ``benchmarks/results/training.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.image_loading import throughputs
from benchmarks.training_ranks import TURN, row, turns
from evaluators.task import Batch, Split
from evaluators.tasks.classification import Classification
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import Digits, DigitsSettings
from evaluators.training.hardware import processor
from evaluators.training.loop import TrainingSettings, train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.schedules import learning_rate_factor

BATCH = 64
RESULTS = Path(__file__).parent / "results" / "training.json"
OPTIMIZER: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
NETWORKS = {
    "ResNet-20, 32 pixels": (ModelSettings("spaces.networks.resnet20", {"in_channels": 3}), 32),
    "ResNet-18, 64 pixels": (ModelSettings("torchvision.models.resnet18", {"num_classes": 10}), 64),
}


class HeldTask(Classification):
    """Classification of random images, in batches that are made once."""

    def __init__(self, model: ModelSettings, pixels: int, steps: int) -> None:
        """Draw the batches."""
        super().__init__(model, Digits(DigitsSettings()))
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(steps, BATCH, 3, pixels, pixels, generator=generator)
        labels = torch.randint(0, 10, (steps, BATCH), generator=generator)
        self.held: list[tuple[Tensor, Tensor]] = list(zip(images, labels, strict=True))

    def size(self, split: Split) -> int:
        """Return the samples of all batches, or two to be measured on."""
        return BATCH * len(self.held) if split == "train" else 2

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None, limit: int | None = None
    ) -> Iterable[Batch]:
        """Yield the batches."""
        return self._some(split)

    def _some(self, split: Split) -> Iterator[Batch]:
        if split == "train":
            yield from self.held
        else:
            yield self.held[0][0][:2], self.held[0][1][:2]


class BareLoop:
    """The same recipe as a person writes it, step by step."""

    def __init__(self, task: HeldTask) -> None:
        """Make network and optimizer."""
        self._held = task.held
        self._model: Any = task.build().train()
        self._model.to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.SGD(self._model.parameters(), **OPTIMIZER)
        self._losses: list[Tensor] = []

    def step(self, number: int) -> None:
        """Train on the batch of step ``number``, from 0."""
        images, labels = self._held[number]
        for group in self._optimizer.param_groups:
            group["lr"] = OPTIMIZER["lr"] * learning_rate_factor("one_cycle", number, len(self._held), 0.2)
        loss = F.cross_entropy(self._model(images.to(memory_format=torch.channels_last)), labels, label_smoothing=0.1)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._losses.append(loss.detach())


def step_times(task: HeldTask) -> tuple[list[float], list[float]]:
    """Return the CPU seconds of the steps of the loop and of the bare one, which take turns; the first steps are left out."""
    settings = TrainingSettings(1, BATCH, OptimizerSettings("sgd", **OPTIMIZER), label_smoothing=0.1, autocast="off")
    ours, bare, began, other = list[float](), list[float](), [time.process_time()], BareLoop(task)

    def on_step(done: int, total: int) -> None:
        ended = time.process_time()
        ours.append(ended - began[0])
        other.step(done - 1)
        began[0] = time.process_time()
        bare.append(began[0] - ended)

    train(task.build(), task, settings, seed=0, device=torch.device("cpu"), on_step=on_step)
    return ours[1:], bare[1:]


def measure_steps(steps: int) -> list[dict[str, Any]]:
    """Return milliseconds of a step of both loops, and quartiles of their ratio, by network."""
    rows = []
    for name, (model, pixels) in NETWORKS.items():
        ours, bare = step_times(HeldTask(model, pixels, steps + 1))
        quartiles = statistics.quantiles([one / other for one, other in zip(ours, bare, strict=True)], n=4)
        own, plain = (1000 * statistics.median(times) for times in (ours, bare))
        rows.append({"network": name, "loop_ms": own, "bare_ms": plain, "ratio": quartiles})
    return rows


def measure_ranks(steps: int) -> list[dict[str, Any]]:
    """Return quartiles of the throughput of two processes of one thread, as a share of that of one with two."""
    return [row(name, turns(model, pixels, steps // TURN + 1)) for name, (model, pixels) in NETWORKS.items()]


def measure_loader(steps: int) -> list[dict[str, Any]]:
    """Return images per CPU second of both loaders, and quartiles of their ratio."""
    return [throughputs(images=512, turns=max(2, steps // 4))]


PARTS = {"steps": measure_steps, "ranks": measure_ranks, "loader": measure_loader}


def main() -> None:
    """Measure one part, print it and put it into the file of results."""
    parser = argparse.ArgumentParser(description="Steps of the training loop against a bare PyTorch loop; ranks; reading.")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--part", choices=list(PARTS), default="steps")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = PARTS[given.part](given.steps)
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**known, "processor": processor(), given.part: rows}, indent=1) + "\n")
    for one in rows:
        print(json.dumps(one), flush=True)


if __name__ == "__main__":
    main()
