"""Channel pruning side by side: our search, Torch-Pruning's pruners, uniform and random masks, and the dense network.

    python -m benchmarks.channel_pruning --data FOLDER [--models resnet20 vgg_small] [--seeds 3] [--workers 2]

Every row starts from the same checkpoint, meets the same MACs target, has the same total number of epochs after the checkpoint
(sparse training counted), and the same optimizer, augmentation and distillation. Every cell is a JSON file under ``--results`` and
is not computed again; a killed benchmark goes on where it stopped. Prints mean and standard deviation over the seeds, and writes
``channel_pruning.json`` beside the cells.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from evaluators.accuracy import Accuracy, AccuracySettings, measure
from evaluators.cost import Cost, CostSettings, count
from evaluators.small_images import FashionMNIST
from evaluators.model_factory import ModelSettings
from evaluators.task import Task
from evaluators.task_settings import NamedData, TaskSettings, build_task
from evaluators.training.batch_norm import recalibrate
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import DistillationSettings, TrainingSettings
from search.algorithms.base import Algorithm
from search.algorithms.genetic import GeneticAlgorithm
from search.algorithms.genetic_settings import GeneticSettings
from search.algorithms.random import RandomSearch, RandomSettings
from search.algorithms.uniform import uniform
from search.evaluation import Recipe
from search.executors.base import Job
from search.pareto import best
from search.problem import Objective, Problem, Target
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask
from spaces.sparsifiers import importance
from spaces.sparsifiers.base import Sparsifier
from spaces.sparsifiers.scaling_factor import ScalingFactor, ScalingFactorSettings

CPU = torch.device("cpu")
TARGETS = (0.4, 0.2)
PEAK_LR = 0.05


@dataclass(frozen=True)
class Sizes:
    """How much is trained and searched; the same for every row.

    Attributes:
        train: Training images.
        search: Images of the search split.
        pretraining: Epochs behind the checkpoint.
        epochs: Epochs after it, in all.
        sparse: How many of these a row with sparse training spends on it.
        evaluations: Candidates of a search.
        population: Candidates of a generation.
    """

    train: int = 6000
    search: int = 3000
    pretraining: int = 12
    epochs: int = 6
    sparse: int = 1
    evaluations: int = 192
    population: int = 24


QUICK = Sizes(train=512, search=256, pretraining=1, epochs=2, sparse=1, evaluations=16, population=8)


@dataclass(frozen=True)
class Bench:
    """One model and seed: data, checkpoint and settings shared by its rows."""

    model: str
    seed: int
    sizes: Sizes
    data: str
    folder: Path

    def task(self) -> Task:
        settings = FashionMNIST.Settings(root=self.data, search_size=self.sizes.search, train_size=self.sizes.train)
        factory = ModelSettings(f"spaces.networks.{self.model}", {"in_channels": 1, "classes": 10}, init_seed=self.seed)
        return build_task(TaskSettings(factory, NamedData("fashion_mnist", settings)))

    def training(self, epochs: int, lr: float, distilled: bool) -> TrainingSettings:
        return TrainingSettings(
            epochs=epochs,
            batch_size=64,
            optimizer=OptimizerSettings("sgd", lr=lr, momentum=0.9, weight_decay=5e-4),
            distillation=DistillationSettings(weight=0.5, temperature=4.0) if distilled else None,
        )

    def reference(self, task: Task) -> nn.Module:
        """Return the checkpoint, trained at the first call."""
        model = task.reference_model()
        path = self.folder / f"{self.model}-{self.seed}-checkpoint.safetensors"
        if not path.exists():
            settings = self.training(self.sizes.pretraining, 0.1, distilled=False)
            train(model, task, settings, seed=self.seed, device=CPU, checkpoint=self._epochs(path))
            save_file(model.state_dict(), path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        model.load_state_dict(load_file(path))
        return model.eval()

    def _epochs(self, path: Path) -> FileCheckpoint:
        return FileCheckpoint(path.with_name(path.stem + "-epochs.safetensors"))

    def sparse(self, task: Task, reference: nn.Module, sparsifier: Sparsifier, path: Path) -> nn.Module:
        """Return the checkpoint after sparse training, with distillation from itself like every other epoch."""
        model = task.reference_model()
        model.load_state_dict(reference.state_dict())
        settings = dataclasses.replace(self.training(self.sizes.sparse, PEAK_LR, distilled=True), schedule="constant")
        checkpoint = self._epochs(path.with_name(path.stem + "-sparse.json"))
        train(
            model, task, settings, seed=self.seed, device=CPU, teacher=reference, sparsifier=sparsifier, checkpoint=checkpoint
        )
        return model.eval()

    def finish(self, task: Task, model: nn.Module, reference: nn.Module, epochs: int, path: Path) -> dict[str, float]:
        """Train for the epochs that are left, and measure on the test split."""
        recalibrate(model, task.batches("train", 256, limit=2048), task.forward, CPU)
        before = measure(model, task, "search")
        settings = self.training(epochs, PEAK_LR, distilled=True)
        history = train(
            model, task, settings, seed=self.seed, device=CPU, teacher=reference, checkpoint=self._epochs(path)
        )
        self._epochs(path).path.unlink(missing_ok=True)
        return {
            "search_top1_before": before["top1"],
            "search_top1": float(history.epochs[-1].search_score),
            "test_top1": measure(model, task, "test")["top1"],
            **count(model, task.example_inputs()),
        }


Row = Callable[[Bench, Task, nn.Module, float, Path], tuple[nn.Module, int]]
"""From (bench, task, reference, MACs limit, path of the cell) to the pruned network and the epochs left."""


def _problem(space: ChannelMask, model: nn.Module, limit: float, criterion: str, samples: int) -> Problem:
    tables: dict[str, Any] = {"importance": importance.score(model, space.groups, criterion), "samples": {"search": samples}}
    return Problem(space, [Objective("top1", "maximize")], [Target("macs", limit)], tables)


def _search(bench: Bench, task: Task, model: nn.Module, problem: Problem, space: ChannelMask, algorithm: Algorithm) -> Candidate:
    evaluators = [Cost(CostSettings()), Accuracy(AccuracySettings(batch_norm_batches=4))]
    recipe = Recipe(space, model, task, evaluators, bench.seed, CPU)
    trials = []
    while not algorithm.finished:
        for proposal in algorithm.ask(64):
            trials.append(recipe.evaluate(Job(len(trials), proposal)))
            algorithm.tell(trials[-1])
    chosen = best(trials, problem)
    if chosen is None:
        raise RuntimeError(trials[-1].error)
    return chosen.proposal.candidate


def _genetic(sparse: bool, criterion: str) -> Row:
    def row(bench: Bench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        model, epochs = reference, bench.sizes.epochs
        if sparse:
            sparsifier = ScalingFactor(ScalingFactorSettings(penalty="l1_half", strength=2e-4, epsilon=1e-2))
            model = bench.sparse(task, reference, sparsifier, path)
            epochs -= bench.sizes.sparse
        space = ChannelMask(model, task.example_inputs())
        problem = _problem(space, model, limit, criterion, bench.sizes.search)
        settings = GeneticSettings(
            population=bench.sizes.population, generations=None, evaluations=bench.sizes.evaluations
        )
        candidate = _search(bench, task, model, problem, space, GeneticAlgorithm(problem, settings, bench.seed))
        return space.realize(model, candidate), epochs

    return row


def _random(bench: Bench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
    space = ChannelMask(reference, task.example_inputs())
    problem = _problem(space, reference, limit, "l2", bench.sizes.search)
    algorithm = RandomSearch(problem, RandomSettings(evaluations=bench.sizes.evaluations), bench.seed)
    return space.realize(reference, _search(bench, task, reference, problem, space, algorithm)), bench.sizes.epochs


def _uniform(bench: Bench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
    space = ChannelMask(reference, task.example_inputs())
    problem = _problem(space, reference, limit, "l2", bench.sizes.search)
    return space.realize(reference, uniform(problem)), bench.sizes.epochs


def _peer(kind: str) -> Row:
    def row(bench: Bench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        import torch_pruning as tp

        from benchmarks.torch_pruning_peers import BNScaleRegularization, loss_gradients, prune_to

        inputs = task.example_inputs()
        if kind == "group_l2_local":
            return prune_to(reference, inputs, limit, lambda: tp.importance.GroupMagnitudeImportance(p=2), False), bench.sizes.epochs
        if kind == "group_l2_global":
            return prune_to(reference, inputs, limit, lambda: tp.importance.GroupMagnitudeImportance(p=2), True), bench.sizes.epochs
        if kind == "taylor":
            fill = loss_gradients(task)
            return prune_to(reference, inputs, limit, tp.importance.GroupTaylorImportance, True, fill), bench.sizes.epochs
        model = bench.sparse(task, reference, BNScaleRegularization(inputs, 1e-4), path)
        pruned = prune_to(model, inputs, limit, tp.importance.BNScaleImportance, True)
        return pruned, bench.sizes.epochs - bench.sizes.sparse

    return row


def _dense(bench: Bench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
    model = task.reference_model()
    model.load_state_dict(reference.state_dict())
    return model, bench.sizes.epochs


ROWS: dict[str, Row] = {
    "genetic search (ours)": _genetic(sparse=False, criterion="l2"),
    "sparse + genetic search (ours)": _genetic(sparse=True, criterion="bn_scale"),
    "Torch-Pruning group L2, local": _peer("group_l2_local"),
    "Torch-Pruning group L2, global": _peer("group_l2_global"),
    "Torch-Pruning BN scale": _peer("bn_scale"),
    "Torch-Pruning Taylor": _peer("taylor"),
    "uniform": _uniform,
    "random search": _random,
    "dense, trained as long": _dense,
}


@dataclass(frozen=True)
class Cell:
    """One row at one target for one model and seed."""

    bench: Bench
    row: str
    target: float

    @property
    def path(self) -> Path:
        words = "".join(letter if letter.isalnum() else "-" for letter in self.row).strip("-")
        return self.bench.folder / f"{self.bench.model}-{self.bench.seed}-{words}-{self.target:g}.json"


def compute(cell: Cell) -> dict[str, Any]:
    """Return a cell's numbers, from its file where it has one."""
    if cell.path.exists():
        found: dict[str, Any] = json.loads(cell.path.read_text())
        return found
    start, used = time.perf_counter(), time.process_time()
    bench, task = cell.bench, cell.bench.task()
    reference = bench.reference(task)
    baseline = count(reference, task.example_inputs())["macs"]
    model, epochs = ROWS[cell.row](bench, task, reference, baseline * cell.target, cell.path)
    pruned = time.perf_counter() - start
    numbers = bench.finish(task, model, reference, epochs, cell.path)
    result: dict[str, Any] = {
        "model": bench.model,
        "seed": bench.seed,
        "row": cell.row,
        "target": cell.target,
        "macs_share": numbers["macs"] / baseline,
        "reference_test_top1": measure(reference, task, "test")["top1"],
        "pruning_seconds": pruned,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - used,
        **numbers,
    }
    temporary = cell.path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(cell.path)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation of test top-1, in percent, by model, row and target."""
    lines = []
    for model in dict.fromkeys(result["model"] for result in results):
        own = [result for result in results if result["model"] == model]
        lines.append(f"\n{model}: test top-1 in %, mean ± standard deviation over {len({r['seed'] for r in own})} seeds")
        lines.append(f"{'':34}" + "".join(f"{f'{target:.0%} of MACs':>18}" for target in TARGETS) + f"{'MACs':>18}")
        for row in ROWS:
            cells = []
            shares = []
            for target in TARGETS:
                found = [r for r in own if r["row"] == row and r["target"] in (target, 1.0)]
                values = [100 * r["test_top1"] for r in found]
                shares += [f"{statistics.fmean(r['macs_share'] for r in found):.3f}"] if found else []
                spread = statistics.stdev(values) if len(values) > 1 else float("nan")
                cells.append(f"{statistics.fmean(values):.2f} ± {spread:.2f}" if values else "-")
            lines.append(f"{row:34}" + "".join(f"{cell:>18}" for cell in cells) + f"{' '.join(shares):>18}")
        dense = {r["seed"]: 100 * r["reference_test_top1"] for r in own}
        lines.append(f"the checkpoint itself: {statistics.fmean(dense.values()):.2f}")
    return "\n".join(lines)


def _quiet() -> None:
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SECATEURS_DATA", "data"), help="folder that holds FashionMNIST/")
    parser.add_argument("--models", nargs="+", default=["resnet20", "vgg_small"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--workers", type=int, default=2, help="processes of one torch thread each")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/channel_pruning"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the benchmark itself")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    sizes = QUICK if options.quick else Sizes()
    benches = [Bench(m, seed, sizes, options.data, options.results) for seed in range(options.seeds) for m in options.models]
    cells = [
        Cell(bench, row, target)
        for bench in benches
        for row in options.rows
        for target in ((1.0,) if row.startswith("dense") else TARGETS)
    ]
    results = []
    with ProcessPoolExecutor(options.workers, get_context("spawn"), initializer=_quiet) as pool:
        for done in as_completed([pool.submit(_checkpoint, bench) for bench in benches]):
            done.result()
        for done in as_completed([pool.submit(compute, cell) for cell in cells]):
            result = done.result()
            results.append(result)
            print(
                f"{len(results)}/{len(cells)} {result['model']} seed {result['seed']} {result['row']} at {result['target']:g}: "
                f"test {100 * result['test_top1']:.2f} ({result['seconds']:.0f} s)",
                flush=True,
            )
    print(table(results))
    summary = {"sizes": dataclasses.asdict(sizes), "cells": sorted(results, key=lambda r: json.dumps(r, sort_keys=True))}
    (options.results / "channel_pruning.json").write_text(json.dumps(summary, indent=1))


def _checkpoint(bench: Bench) -> None:
    bench.reference(bench.task())


if __name__ == "__main__":
    main()
