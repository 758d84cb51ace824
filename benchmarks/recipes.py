"""Recipes of a training side by side: what each does to a small network's retraining, everything else alike.

    python -m benchmarks.recipes --data FOLDER [--seeds 3] [--target 0.1] [--images 6000] [--epochs-after 4] [--rows ROW ...]

A ResNet-20 is cut to ``--target`` of its MACs by a uniform ratio (L2 norm), its layers are solved by least squares on 768
images (a search's default), and what that leaves is trained on ``--images`` images for ``--epochs-after`` epochs: batches of
64, SGD with momentum 0.9, weight decay 5e-4, a peak rate of 0.05, one cycle. Each row is that training with one recipe; labels
alone teach ``plain``, which the others are compared with by seed. The last epoch counts. ``channel exploration`` starts from
the checkpoint itself, and comes down to the same MACs in as many epochs.

Every cell is a JSON file under ``--results``, and is not computed again; a killed benchmark goes on behind it. Prints mean and
standard deviation over the seeds of test top-1, and the mean of the paired differences to ``plain`` with its standard error (an
asterisk: more than two of them); writes ``recipes.json`` beside the folder.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.one_shot import QUICK, arguments, begin, clear
from benchmarks.pruning_bench import CPU, PEAK_LR, Bench, Sizes
from benchmarks.pruning_cells import spread
from evaluators.cost import count_costs
from evaluators.task import Task
from evaluators.tasks.measure import measure
from evaluators.training.adapters import AdapterSettings
from evaluators.training.average import EmaSettings
from evaluators.training.features import FeatureSettings
from evaluators.training.image_operations import RandAugmentSettings
from evaluators.training.loop import train
from evaluators.training.settings import DistillationSettings, TrainingSettings
from search.algorithms.encoding.uniform import uniform
from search.output.atomic import write_json
from search.study.problem import Objective, Problem, Target
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.channels.surgery import Cut, apply_cut, plan_cut
from spaces.importance import criterion as importance
from spaces.reconstruction.dense import DenseOutputs
from spaces.reconstruction.reconstruct import closed_loop
from spaces.reconstruction.settings import ReconstructionSettings
from spaces.sparsifiers.channel_exploration import ChannelExploration, ChannelExplorationSettings

PLAIN = "plain"
EXPLORATION = "channel exploration"
SOLVED = 768
"""Images of the reconstruction."""
ROWS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "logits": {"distillation": DistillationSettings(0.5, 4.0)},
    "features": {"distillation": DistillationSettings(0.0, 4.0, FeatureSettings())},
    "logits and features": {"distillation": DistillationSettings(0.5, 4.0, FeatureSettings())},
    "moving average": {"ema": EmaSettings(0.99)},
    "no decay on norms": {"optimizer": {"decay_norms": False}},
    "head at 10 times the rate": {"optimizer": {"rates": {"classifier": 10.0}}},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "RandAugment": {"rand_augment": RandAugmentSettings()},
    "random erasing": {"erasing": 0.25},
    "shards": {"shards": 4},
    "clip_norm": {"clip_norm": 1.0},
    "clip_value": {"clip_value": 0.01},
    "norms, biases and head alone": {"train_only": ("norms", "biases", "head")},
    "adapters": {"adapters": AdapterSettings(), "train_only": ("norms", "biases", "head")},
    EXPLORATION: {},
}
"""What differs from the plain training, by row; of the optimizer, its options."""


def settings(bench: Bench[Sizes], epochs: int, row: str) -> TrainingSettings:
    """Return the training of a row."""
    plain = dataclasses.replace(bench.training(epochs, PEAK_LR, distilled=False), keep_epoch="last")
    changed = dict(ROWS[row])
    if isinstance(options := changed.get("optimizer"), dict):
        changed["optimizer"] = dataclasses.replace(plain.optimizer, **options)
    return dataclasses.replace(plain, **changed)


def start(bench: Bench[Sizes], task: Task, reference: nn.Module, target: float) -> tuple[nn.Module, Cut]:
    """Return the network that all rows start from, solved at the first call, and the cut that it came from."""
    space = ChannelMask(reference, task.example_inputs(), ChannelMaskSettings(compensate=False))
    tables = {"importance": importance.score(reference, space.groups, "l2")}
    limit = target * count_costs(reference, task.example_inputs())["macs"]
    candidate = uniform(Problem(space, [Objective("top1", "maximize")], [Target("macs", limit)], tables))
    cut, path = (
        plan_cut(space.groups, space.groups.mask(candidate)),
        bench.folder / f"start-{bench.seed}-{target:g}.safetensors",
    )
    if not path.exists():
        batches = [inputs for inputs, _ in task.batches("train", 64, limit=SOLVED)]
        outputs = DenseOutputs(reference, batches, task.forward, ReconstructionSettings(images=SOLVED), bench.seed)
        solved = space.reconstruct(reference, candidate, closed_loop(outputs))
        save_file(solved.state_dict(), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    small = apply_cut(reference, cut)
    small.load_state_dict(load_file(path))
    return small.eval(), cut


def before(bench: Bench[Sizes], task: Task, small: nn.Module, target: float) -> float:
    """Return the test top-1 of the network that all rows start from, measured at the first call."""
    path = bench.folder / f"start-{bench.seed}-{target:g}.json"
    if not path.exists():
        write_json(path, {"test_top1": measure(small, task, "test")["top1"]})
    return float(json.loads(path.read_text())["test_top1"])


def explored(bench: Bench[Sizes], task: Task, reference: nn.Module, target: float, training: TrainingSettings) -> nn.Module:
    """Return what is left of the checkpoint after a training in which channels leave and come back."""
    model, sparsifier = copy.deepcopy(reference), ChannelExploration(ChannelExplorationSettings(macs=target))
    train(model, task, training, seed=bench.seed, device=CPU, sparsifier=sparsifier)
    groups = sparsifier.channel_groups
    if groups is None:
        raise RuntimeError("expected the channel groups of a training that has ended")
    kept = sparsifier.keep_masks()
    mask = np.concatenate([kept[group.name].numpy() for group in groups.groups])
    return apply_cut(model, plan_cut(groups, mask)).eval()


def compute(bench: Bench[Sizes], own: Bench[Sizes], target: float, epochs: int, row: str) -> dict[str, Any]:
    """Return a cell, from its file where it is there.

    Args:
        bench: The checkpoint.
        own: The same with the images of the rows.
        target: Share of the checkpoint's MACs.
        epochs: Epochs of the row's training.
        row: Its name.
    """
    words = "".join(letter if letter.isalnum() else "-" for letter in row)
    path = bench.folder / f"{bench.seed}-{target:g}-{own.sizes.train}-{epochs}-{words}.json"
    if not path.exists():
        reference, task = bench.reference(bench.task()), own.task()
        small, cut = start(bench, bench.task(), reference, target)
        untrained, began = before(bench, task, small, target), time.process_time()
        if row == EXPLORATION:
            small = explored(bench, task, reference, target, settings(own, epochs, row))
        else:
            train(small, task, settings(own, epochs, row), seed=bench.seed, device=CPU, teacher=reference, cuts=[cut])
        seconds = time.process_time() - began
        numbers = {
            "reference_test_top1": bench.reference_top1(bench.task(), reference),
            "before_test_top1": untrained,
            "test_top1": measure(small, task, "test")["top1"],
            **count_costs(small, task.example_inputs()),
            "cpu_seconds": seconds,
        }
        write_json(path, {"row": row, "seed": bench.seed, "target": target, **numbers})
    return dict(json.loads(path.read_text()))


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return test top-1 and the paired difference to the plain training of each row, in points, and CPU seconds."""
    plain = {cell["seed"]: cell for cell in cells if cell["row"] == PLAIN}
    dense, before = ([100 * cell[key] for cell in plain.values()] for key in ("reference_test_top1", "before_test_top1"))
    lines = [f"The checkpoint has {spread(dense)}, what is trained {spread(before)} before it."]
    lines.append(f"{'test top-1 in %':32}{'':>16}{'to plain':>18}{'CPU s':>10}")
    for row in dict.fromkeys(cell["row"] for cell in cells):
        found = [cell for cell in cells if cell["row"] == row]
        leads = [100 * (cell["test_top1"] - plain[cell["seed"]]["test_top1"]) for cell in found if cell["seed"] in plain]
        lead = ""
        if row != PLAIN and leads:
            error = statistics.stdev(leads) / math.sqrt(len(leads)) if len(leads) > 1 else math.nan
            lead = f"{statistics.fmean(leads):+.2f} ± {error:.2f}{' *' if clear(leads) else '  '}"
        seconds = statistics.fmean(cell["cpu_seconds"] for cell in found)
        lines.append(f"{row:32}{spread([100 * cell['test_top1'] for cell in found]):>16}{lead:>18}{seconds:>10.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__, "benchmarks/results/recipes")
    parser.add_argument("--target", type=float, default=0.1, help="share of the checkpoint's MACs")
    parser.add_argument("--images", type=int, default=6000, help="training images of the rows")
    parser.add_argument("--epochs-after", type=int, default=4, help="epochs of the rows")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    options = parser.parse_args()
    sizes = begin(options)
    images, epochs = (QUICK.train // 8, 1) if options.quick else (options.images, options.epochs_after)
    cells: list[dict[str, Any]] = []
    for row in options.rows:
        for seed in range(options.seeds):
            bench = Bench("resnet20", seed, dataclasses.replace(sizes, epochs=epochs), options.data, Path(options.results))
            # Splits of the rows are those of the checkpoint; the last epoch is handed on, so that few images tell the course.
            own = dataclasses.replace(bench, sizes=dataclasses.replace(bench.sizes, train=images))
            cells.append(compute(bench, own, options.target, epochs, row))
            print(f"seed {seed}: {row}: test {100 * cells[-1]['test_top1']:.2f}", flush=True)
    print(table(cells))
    written = {"sizes": vars(sizes), "images": images, "epochs": epochs, "target": options.target, "cells": cells}
    write_json(options.results.with_suffix(".json"), written)


if __name__ == "__main__":
    main()
