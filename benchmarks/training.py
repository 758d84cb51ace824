"""Steps of the training loop against a bare PyTorch loop with the same recipe, on the same batches.

    chrt -f 10 taskset -c 1 python -m benchmarks.training [--rounds 5] [--steps 8]

ResNet-20 on images of 32 pixels and torchvision's ResNet-18 at 64 pixels, batches of 64 that are held in memory: SGD with
Nesterov's momentum, one cycle, label smoothing, channels-last layout, float32. Both take turns, each first in every other
round; times are CPU seconds of this process between the ends of the first and the last step, in one thread. The ratio is the
median over the rounds of the loop's time over the bare one's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluators.task import Batch, Split
from evaluators.tasks.classification import Classification
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import Digits, DigitsSettings
from evaluators.training.loop import TrainingSettings, train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.schedules import learning_rate_factor

BATCH = 64
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


def ours(task: HeldTask) -> float:
    """Return the CPU seconds of the loop's steps behind the first one."""
    optimizer = OptimizerSettings("sgd", lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    settings = TrainingSettings(1, BATCH, optimizer, label_smoothing=0.1, autocast="off")
    marks: list[float] = []
    train(
        task.build(),
        task,
        settings,
        seed=0,
        device=torch.device("cpu"),
        on_step=lambda done, total: marks.append(time.process_time()),
    )
    return marks[-1] - marks[0]


def bare(task: HeldTask) -> float:
    """Return the CPU seconds of a bare loop's steps behind the first one."""
    model: Any = task.build().train()
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    marks: list[float] = []
    losses: list[Tensor] = []
    for number, (images, labels) in enumerate(task.held):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * learning_rate_factor("one_cycle", number, len(task.held), 0.2)
        loss = F.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
        marks.append(time.process_time())
    return marks[-1] - marks[0]


def main() -> None:
    """Print a row per network."""
    parser = argparse.ArgumentParser(description="Steps of the training loop against a bare PyTorch loop.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | loop, ms a step | bare loop, ms a step | ratio (of every round) |")
    print("|---|---|---|---|")
    for name, (model, pixels) in NETWORKS.items():
        task = HeldTask(model, pixels, given.steps + 1)
        found: dict[str, list[float]] = {"ours": [], "bare": []}
        for turn in range(given.rounds):
            for which in ("ours", "bare") if turn % 2 else ("bare", "ours"):
                found[which].append((ours if which == "ours" else bare)(task) / given.steps)
        ratios = [one / other for one, other in zip(found["ours"], found["bare"], strict=True)]
        own, plain = (1000 * statistics.median(found[which]) for which in ("ours", "bare"))
        rounds = ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios))
        print(f"| {name} | {own:.1f} | {plain:.1f} | {statistics.median(ratios):.3f} ({rounds}) |", flush=True)


if __name__ == "__main__":
    main()
