"""A whole genetic search with racing, and the same search that evaluates everything, on a trained ResNet-20.

One objective (top-1 on the search split) under 40 % of the MACs; both get the same number of candidates, the same seeds and the
same settings, and run one after the other in one thread; seeds run side by side in ``workers`` processes.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.driving import measured
from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.cost import Cost, CostSettings
from evaluators.task import Batch, Split
from evaluators.tasks.classification import Classification
from evaluators.tasks.data import DataSettings
from evaluators.tasks.measure import measure
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import FashionMNIST
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import TrainingSettings
from search.algorithms.genetic import GeneticAlgorithm
from search.algorithms.genetics.racing import RacingSettings
from search.algorithms.genetics.settings import GeneticSettings
from search.executors.trial_evaluator import TrialEvaluator
from search.stages.search.space import CALIBRATION_SAMPLES
from search.study.pareto import best
from search.study.problem import Objective, Problem, Target
from search.study.trial import Trial
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask
from spaces.files.tensor_file import write_tensors
from spaces.importance import criterion as importance

CPU = torch.device("cpu")
MACS_SHARE = 0.4
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is trained and searched.

    Attributes:
        data: Folder that holds Fashion-MNIST.
        checkpoint: Where the trained network is kept; trained if it is not there.
        train_images: Images the network is trained on, and batches for re-calibration are drawn from.
        epochs: Of that training.
        search_images: Images a full evaluation scores.
        batch_norm_batches: Batches of 256 images that it re-calibrates on before.
        population: Candidates of a generation.
        generations: Generations of a search.
        elite: Candidates that survive whatever comes; the default's share of the population.
        seeds: Searches of either kind.
        workers: Processes that search at the same time, each in one thread.
        racing: The racing to try.
    """

    data: str
    checkpoint: Path
    train_images: int = 4096
    epochs: int = 6
    search_images: int = 1500
    batch_norm_batches: int = 2
    population: int = 16
    generations: int = 6
    elite: int = 2
    seeds: int = 3
    workers: int = 2
    racing: RacingSettings = field(default_factory=RacingSettings)


class CountedFashionMNIST(FashionMNIST):
    """Fashion-MNIST that counts the images it hands out."""

    seen = 0

    def batches(self, split: Split, batch_size: int, generator: torch.Generator | None, limit: int | None) -> Iterable[Batch]:
        """Yield batches, and count."""
        for batch in super().batches(split, batch_size, generator, limit):
            self.seen += len(batch[0])
            yield batch


def problem_of(space: ChannelMask, model: nn.Module, samples: int) -> Problem:
    """Return the problem of both benchmarks: top-1 under 40 % of the MACs."""
    dense = Candidate({name: "1" * domain.length for name, domain in space.domains.items()})
    limit = MACS_SHARE * space.costs(dense)["macs"]
    tables = {"importance": importance.score(model, space.groups, "bn_scale"), "samples": {"search": samples}}
    return Problem(space, [Objective("top1", "maximize")], [Target("macs", limit)], tables)


def trained(plan: Plan, task: Classification) -> nn.Module:
    """Return the trained network, from its file where there is one."""
    model = task.reference_model()
    if plan.checkpoint.exists():
        model.load_state_dict(load_file(plan.checkpoint))
        return model.eval()
    optimizer = OptimizerSettings("sgd", lr=0.1, momentum=0.9, weight_decay=5e-4)
    train(model, task, TrainingSettings(epochs=plan.epochs, batch_size=64, optimizer=optimizer), seed=0, device=CPU)
    write_tensors(plan.checkpoint, model.state_dict())
    return model.eval()


@dataclass(frozen=True)
class Searched:
    """What one search did: its numbers, and when which score was known, as (CPU seconds, images, top-1)."""

    improvements: list[tuple[float, int, float]]
    numbers: Numbers

    def reached(self, score: float) -> tuple[float, int] | None:
        """Return CPU seconds and images until a candidate of this score was known, None if never."""
        return next(((seconds, images) for seconds, images, top1 in self.improvements if top1 >= score), None)


def run(plan: Plan, task: Classification, model: nn.Module, racing: RacingSettings | None, seed: int) -> Searched:
    """Search once, from the channel space to the last trial."""
    data = task.data
    if not isinstance(data, CountedFashionMNIST):
        raise TypeError(f"expected data that count, got {type(data).__name__}")
    before, wall, cpu = data.seen, time.perf_counter(), time.process_time()
    batches = (inputs for inputs, _ in task.batches("train", 128, limit=CALIBRATION_SAMPLES))
    space = ChannelMask(model, task.example_inputs(), batches=batches)
    problem = problem_of(space, model, plan.search_images)
    settings = GeneticSettings(population=plan.population, generations=plan.generations, elite=plan.elite, racing=racing)
    algorithm = GeneticAlgorithm(problem, settings, seed)
    accuracy = Accuracy(AccuracySettings(batch_norm_batches=plan.batch_norm_batches))
    evaluator = TrialEvaluator(space, model, task, [Cost(CostSettings()), accuracy], seed, CPU)
    trials: list[Trial] = []
    improvements: list[tuple[float, int, float]] = []
    for trial in measured(algorithm, evaluator):
        trials.append(trial)
        top1 = trial.metrics["top1"] if trial.proposal.fidelity == 1.0 else 0.0
        if top1 > max((score for _, _, score in improvements), default=0.0):
            improvements.append((time.process_time() - cpu, data.seen - before, top1))
    chosen = best(trials, problem)
    if chosen is None:
        raise RuntimeError("no candidate was measured in full")
    full = [trial for trial in trials if trial.proposal.fidelity == 1.0]
    candidates = len({trial.proposal.candidate.fingerprint for trial in trials})
    numbers: Numbers = {
        "seed": seed,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "images": data.seen - before,
        "candidates": candidates,
        "share_in_full": len(full) / candidates,
        "evaluating_wall_s": sum(trial.seconds for trial in trials),
        "best_top1": chosen.metrics["top1"],
        "best": chosen.proposal.candidate.fingerprint,
        "improvements": improvements,
    }
    return Searched(improvements, numbers)


def task_of(plan: Plan) -> Classification:
    """Return the task, whose data count what they hand out."""
    images = CountedFashionMNIST(DataSettings(root=plan.data, search_size=plan.search_images, train_size=plan.train_images))
    return Classification(ModelSettings("spaces.networks.resnet20", {"in_channels": 1, "classes": 10}), images)


def search(plan: Plan, report: Callable[[str], None]) -> Numbers:
    """Return the numbers of both searches for every seed."""
    task = task_of(plan)
    dense = measure(trained(plan, task), task, "search")["top1"]
    settings = dataclasses.asdict(plan) | {"data": "", "checkpoint": plan.checkpoint.name}
    pairs: list[Numbers] = []
    with ProcessPoolExecutor(plan.workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done in as_completed([pool.submit(pair, plan, seed) for seed in range(plan.seeds)]):
            pairs.append(done.result())
            ratio = ", ".join(f"{name} {value:.2f}" for name, value in pairs[-1]["ratio"].items())
            change = f"best top-1 {100 * pairs[-1]['top1_change']:+.2f} points"
            report(f"search, seed {pairs[-1]['racing']['seed']}: everything / racing: {ratio}, {change}")
    pairs.sort(key=lambda one: int(one["racing"]["seed"]))
    names = [name for name in pairs[0]["ratio"] if all(name in one["ratio"] for one in pairs)]
    mean = {name: statistics.fmean(one["ratio"][name] for one in pairs) for name in names}
    return {"plan": settings, "dense_top1": dense, "seeds": pairs, "mean_ratio": mean}


def pair(plan: Plan, seed: int) -> Numbers:
    """Search both ways, one after the other, and compare."""
    task = task_of(plan)
    model = trained(plan, task)
    # Which comes first alternates, so that what else the machine does falls on both.
    order = ("racing", "everything") if seed % 2 == 0 else ("everything", "racing")
    found = {way: run(plan, task, model, plan.racing if way == "racing" else None, seed) for way in order}
    return {way: found[way].numbers for way in ("everything", "racing")} | _compare(found)


def _compare(found: dict[str, Searched]) -> Numbers:
    everything, racing = found["everything"], found["racing"]
    one, other = everything.numbers, racing.numbers
    ratio = {name: one[key] / other[key] for name, key in (("wall", "wall_s"), ("cpu", "cpu_s"), ("images", "images"))}
    # How long until a score was known that both have reached: the lower of the two final ones.
    level = min(one["best_top1"], other["best_top1"])
    first, second = everything.reached(level), racing.reached(level)
    if first is not None and second is not None:
        ratio |= {"cpu to the same score": first[0] / second[0], "images to the same score": first[1] / second[1]}
    change = other["best_top1"] - one["best_top1"]
    return {"ratio": ratio, "top1_change": change, "same_best": one["best"] == other["best"]}
