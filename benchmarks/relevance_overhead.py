"""What one pass of task relevance over the training set costs, against a plain forward pass over it.

    python -m benchmarks.relevance_overhead --data FOLDER [--images 55000] [--rounds 3]

Both read the same batches of Fashion-MNIST in one torch thread, one after the other, ``--rounds`` times. Times are wall-clock
and CPU time of the process: on a machine that others use too, the second is the one to compare. The aim is 1.1 times.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.stopwatch import Stopwatch
from evaluators.task import Task
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.observations import observations
from evaluators.tasks.settings import NamedData, TaskSettings, build_task
from evaluators.tasks.small_images import FashionMNIST
from search.output.atomic import write_json
from spaces.channels.groups import ChannelGroups, find_groups
from spaces.importance.criterion import score

CPU = torch.device("cpu")
BATCH = 128


def plain(model: nn.Module, task: Task, images: int) -> None:
    """Run the network on the training samples, and keep nothing."""
    model.eval()
    with torch.no_grad():
        for inputs, _ in task.batches("train", BATCH, limit=images):
            task.forward(model, inputs)


def relevance(model: nn.Module, task: Task, groups: ChannelGroups, images: int) -> None:
    """Score every channel by its task relevance on the same samples."""
    score(model, groups, "task_relevance", observations(task, CPU, images, batch_size=BATCH))


def measured(name: str, data: str, images: int, rounds: int) -> dict[str, Any]:
    """Return the times of both passes of one network, and their ratio."""
    factory = ModelSettings(f"spaces.networks.{name}", {"in_channels": 1, "classes": 10})
    task = build_task(TaskSettings(factory, NamedData("fashion_mnist", FashionMNIST.Settings(root=data, search_size=5000))))
    model = task.reference_model().eval()
    groups = find_groups(model, task.example_inputs(), forward=task.forward)
    watch = Stopwatch()
    # Batches are normalized and kept when they are read first: both find them ready.
    plain(model, task, images)
    for _ in range(rounds):
        watch.time("plain", partial(plain, model, task, images))
        watch.time("relevance", partial(relevance, model, task, groups, images))
    return {"images": images, **watch.milliseconds(), "relevance_to_plain": watch.ratio("relevance", "plain")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SECATEURS_DATA", "data"), help="folder that holds FashionMNIST/")
    parser.add_argument("--models", nargs="+", default=["resnet20", "vgg_small"])
    parser.add_argument("--images", type=int, default=55000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/relevance_overhead.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = {}
    for name in options.models:
        numbers[name] = measured(name, options.data, options.images, options.rounds)
        ratio = numbers[name]["relevance_to_plain"]
        print(f"{name}: {ratio['cpu']:.3f} times the CPU time of a plain pass, {ratio['wall']:.3f} times its wall-clock time")
        write_json(options.results, numbers)


if __name__ == "__main__":
    main()
