"""How fast candidates are built, evaluated and searched, against deep copy, Torch-Pruning and a plain loop.

    python -m benchmarks.evaluation_throughput --data FOLDER [--parts build evaluate compare search]

Same masks, images and dtype, one torch thread. ResNet-20 sees Fashion-MNIST at 28 pixels, ResNet-18 random images at 224.
``build``: milliseconds from a mask to the smaller network. ``evaluate``: candidates per second, from the mask to the score
after BatchNorm re-calibration, beside the bare forward passes of the same batches. ``compare``: a candidate of a step of
``evolution``, from the mask to its divergence, solved layers apart, beside the bare forward passes. ``search``: a whole
search with racing against one that evaluates everything (see :mod:`benchmarks.racing_throughput`). Torch-Pruning only
removes channels, so that the networks compared are ours without compensation; what the search builds by default is the row
``compensated``.
Times are wall-clock and CPU time of the process: on a machine that others use too, the second is the one to compare.
Every part writes its numbers to ``--results`` when it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch

import evaluators.accuracy
from benchmarks.racing_throughput import Plan, problem_of, search
from benchmarks.stopwatch import Stopwatch
from benchmarks.straightforward_way import TorchPruningWay, bare, passes
from benchmarks.throughput_table import table
from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.cost import Cost, CostSettings
from evaluators.divergence import Divergence, DivergenceSettings
from evaluators.task import Batch, Task
from evaluators.tasks.classification import Classification
from evaluators.tasks.data import DataSettings
from evaluators.tasks.in_memory import Images, InMemory
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import FashionMNIST
from search.algorithms.genetics.racing import RacingSettings
from search.algorithms.random import RandomSearch, RandomSettings
from search.executors.base import Job
from search.executors.step_solving import Dense, StepSolving
from search.executors.trial_evaluator import TrialEvaluator
from search.output.atomic import write_json
from search.stages.search.space import CALIBRATION_SAMPLES
from search.study.trial import Form, Proposal, Step, Trial
from spaces.base import Solve
from spaces.channel_mask import ChannelMask
from spaces.execution.batch import to_device
from spaces.reconstruction.settings import ReconstructionSettings

CPU = torch.device("cpu")
TOLERANCE = 1e-4
FORMS: tuple[Form, ...] = ("rough", "close")
Numbers = dict[str, Any]


class RandomImages(InMemory):
    """Noise in ImageNet's shape: 64 training and 32 search images."""

    classes = 1000
    mean: ClassVar[tuple[float, ...]] = (0.5, 0.5, 0.5)
    std: ClassVar[tuple[float, ...]] = (0.25, 0.25, 0.25)

    def load(self, training: bool) -> Images:
        """Return the images, the same every time."""
        generator = torch.Generator().manual_seed(int(training))
        pixels = torch.randint(0, 256, (96, 3, 224, 224), dtype=torch.uint8, generator=generator)
        return Images(pixels, torch.randint(0, self.classes, (96,), generator=generator))


@dataclass(frozen=True)
class Case:
    """A network, its images, and how much of them a candidate sees."""

    name: str
    task: Task
    accuracy: AccuracySettings
    evaluated: int
    compared: int


def cases(data: str) -> Iterator[Case]:
    """Yield the two networks."""
    images = FashionMNIST(DataSettings(root=data, search_size=1024, train_size=2048))
    task = Classification(ModelSettings("spaces.networks.resnet20", {"in_channels": 1, "classes": 10}), images)
    yield Case("resnet20 at 28", task, AccuracySettings(batch_norm_batches=4), evaluated=5, compared=1024)
    task = Classification(ModelSettings("torchvision.models.resnet18"), RandomImages(DataSettings(search_size=32)))
    yield Case("resnet18 at 224", task, AccuracySettings(batch_norm_batches=2, batch_size=16), evaluated=3, compared=48)


class TimedSolving(StepSolving):
    """Solves the layers of candidates of steps, and times it."""

    watch: Stopwatch

    def solve(self, dense: Dense, task: Task, seed: int, device: torch.device, form: Form) -> Solve:
        """Return what solves the layers of a smaller network, timed."""
        solve = super().solve(dense, task, seed, device, form)
        return lambda small, cut: self.watch.time("solve", solve, small, cut)


class Bench:
    """One case, ready: the network, its space, masks at 40 % of the MACs, and both ways."""

    def __init__(self, case: Case, masks: int) -> None:
        self.case = case
        torch.manual_seed(0)
        self.model = case.task.reference_model().eval()
        self.inputs = case.task.example_inputs()
        start = time.process_time()
        self.space = ChannelMask(self.model, self.inputs)
        self.space_seconds = time.process_time() - start
        batches = (inputs for inputs, _ in case.task.batches("train", 32, limit=CALIBRATION_SAMPLES))
        self.compensating = ChannelMask(self.model, self.inputs, batches=batches)
        problem = problem_of(self.space, self.model, case.task.size("search"))
        drawn = RandomSearch(problem, RandomSettings(masks, "random"), 0).ask(masks)
        self.candidates = [proposal.candidate for proposal in drawn]
        self.theirs = TorchPruningWay(self.model, self.inputs, self.space)
        self.dropped = [self.theirs.dropped(candidate) for candidate in self.candidates]

    def check(self, index: int) -> float:
        """Return the largest difference between both networks' outputs.

        Raises:
            RuntimeError: They differ in a shape or by more than rounding.
        """
        ours, theirs = self.space.realize(self.model, self.candidates[index]), self.theirs.build(self.dropped[index], {})
        shapes = [{name: tuple(tensor.shape) for name, tensor in one.state_dict().items()} for one in (ours, theirs)]
        inputs = next(iter(self.case.task.batches("search", 4)))[0]
        with torch.inference_mode():
            difference = float((ours(inputs) - theirs(inputs)).abs().max())
        if shapes[0] != shapes[1] or not difference < TOLERANCE:
            raise RuntimeError(f"{self.case.name}, mask {index}: the networks differ (outputs by {difference:.2g})")
        return difference

    def build(self) -> Numbers:
        """Time building every candidate, both ways."""
        difference = max(self.check(index) for index in range(len(self.candidates)))
        watch = Stopwatch()
        steps: list[dict[str, float]] = []
        for candidate, dropped in zip(self.candidates, self.dropped, strict=True):
            steps.append({})
            watch.time("theirs", self.theirs.build, dropped, steps[-1])
            watch.time("ours", self.space.realize, self.model, candidate)
            watch.time("compensated", self.compensating.realize, self.model, candidate)
        parts = {name: 1e3 * statistics.median(step[name] for step in steps) for name in steps[0]}
        return {
            "masks": len(self.candidates),
            "max_output_difference": difference,
            **watch.milliseconds(),
            "theirs_parts_cpu_ms": parts,
            "ratio": watch.ratio("theirs", "ours"),
            "space_once_cpu_s": self.space_seconds,
        }

    def evaluate(self) -> Numbers:
        """Time build, re-calibration and score of every candidate, both ways, and the bare passes."""
        case, task, size = self.case, self.case.task, self.case.accuracy.batch_size
        calibration = list(task.batches("train", size, limit=size * case.accuracy.batch_norm_batches))
        scored = list(task.batches("search", size))
        plain = [[inputs for inputs, _ in batches] for batches in (calibration, scored)]
        channels_last = [[to_device(inputs, CPU, channels_last=True) for inputs in batches] for batches in plain]
        watch, compensated, apart = Stopwatch(), Stopwatch(), 0.0
        for index in range(case.evaluated + 1):
            if index == 1:
                watch, compensated = Stopwatch(), Stopwatch()  # The first candidate warms up.
            trial = self._ours(watch, self.space, index)
            theirs = watch.time("theirs", self._straightforward, self.dropped[index], calibration, scored)
            self._ours(compensated, self.compensating, index)
            network = self.space.realize(self.model, self.candidates[index])
            for clock in (watch, compensated):
                clock.time("bare", bare, network, *channels_last)
            watch.time("bare_contiguous", bare, network, *plain)
            apart = max(apart, abs(trial.metrics["top1"] - theirs["top1"]))
        return {
            "candidates": case.evaluated,
            "images": sum(len(inputs) for batches in plain for inputs in batches),
            "max_top1_difference": apart,
            **watch.milliseconds(),
            "compensated": compensated.milliseconds(),
            "candidates_per_second": {name: 1 / statistics.median(watch.cpu[name]) for name in ("ours", "theirs", "bare")},
            "theirs_to_ours": watch.ratio("theirs", "ours"),
            "ours_to_bare": watch.ratio("ours", "bare"),
            "ours_to_bare_contiguous": watch.ratio("ours", "bare_contiguous"),
            "compensated_to_bare": compensated.ratio("ours", "bare"),
        }

    def compare(self) -> Numbers:
        """Time comparisons of candidates within a generation, solved layers apart, and the bare passes of the same images."""
        case, size = self.case, self.case.accuracy.batch_size
        evaluators_run = [Cost(CostSettings()), Divergence(DivergenceSettings(batch_size=size))]
        inputs = [inputs for inputs, _ in case.task.batches("train", size, limit=case.compared)]
        passed = [to_device(batch, CPU, channels_last=True) for batch in inputs]
        numbers: Numbers = {}
        for form in FORMS:
            solving = TimedSolving(ReconstructionSettings())
            evaluator = TrialEvaluator(self.space, self.model, case.task, evaluators_run, 0, CPU, solving=solving)
            for index in range(case.evaluated + 1):
                if index <= 1:
                    watch = solving.watch = Stopwatch()  # The first candidate warms up.
                step = Step(case.compared, index, form)
                trial = watch.time("ours", evaluator.evaluate, Job(index, Proposal(self.candidates[index], step=step)))
                if trial.error:
                    raise RuntimeError(f"{case.name}, mask {index}: {trial.error}")
                watch.rest("without_solving", "ours", ["solve"])
                watch.time("bare", bare, self.space.realize(self.model, self.candidates[index]), [], passed)
            ratio = watch.ratio("without_solving", "bare")
            numbers[form] = {"images": sum(map(len, inputs)), **watch.milliseconds(), "without_solving_to_bare": ratio}
        return numbers

    def _ours(self, watch: Stopwatch, space: ChannelMask, index: int) -> Trial:
        """Evaluate a candidate as the search does, and time its parts."""
        evaluators_run = [Cost(CostSettings()), Accuracy(self.case.accuracy)]
        evaluator = TrialEvaluator(space, self.model, self.case.task, evaluators_run, 0, CPU)
        with watch.around(
            build=(ChannelMask, "realize"),
            recalibrate=(evaluators.accuracy, "recalibrate"),
            score=(evaluators.accuracy, "measure"),
        ):
            trial = watch.time("ours", evaluator.evaluate, Job(index, Proposal(self.candidates[index])))
        watch.rest("rest", "ours", ["build", "recalibrate", "score"])
        return trial

    def _straightforward(
        self, dropped: dict[str, list[int]], calibration: Sequence[Batch], scored: Sequence[Batch]
    ) -> dict[str, float]:
        return passes(self.theirs.build(dropped, {}), calibration, scored)


def _build(options: argparse.Namespace, report: Callable[[str], None]) -> Numbers:
    return {case.name: Bench(case, options.masks).build() for case in cases(options.data)}


def _evaluate(options: argparse.Namespace, report: Callable[[str], None]) -> Numbers:
    return {case.name: Bench(case, case.evaluated + 1).evaluate() for case in cases(options.data)}


def _compare(options: argparse.Namespace, report: Callable[[str], None]) -> Numbers:
    return {case.name: Bench(case, case.evaluated + 1).compare() for case in cases(options.data)}


def _search(options: argparse.Namespace, report: Callable[[str], None]) -> Numbers:
    checkpoint = options.checkpoint or options.results.with_name("evaluation_throughput-resnet20.safetensors")
    plan = Plan(
        options.data,
        checkpoint,
        search_images=options.search_images,
        population=options.population,
        generations=options.generations,
        seeds=options.seeds,
        workers=options.workers,
        racing=RacingSettings(tuple(options.fidelities), options.confidence),
    )
    return search(plan, report)


PARTS: dict[str, Callable[[argparse.Namespace, Callable[[str], None]], Numbers]] = {
    "build": _build,
    "evaluate": _evaluate,
    "compare": _compare,
    "search": _search,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SECATEURS_DATA", "data"), help="folder that holds FashionMNIST/")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--masks", type=int, default=20, help="candidates that are built")
    parser.add_argument("--search-images", type=int, default=Plan.search_images)
    parser.add_argument("--population", type=int, default=Plan.population)
    parser.add_argument("--generations", type=int, default=Plan.generations)
    parser.add_argument("--seeds", type=int, default=Plan.seeds)
    parser.add_argument("--workers", type=int, default=Plan.workers, help="searches at the same time, each in one thread")
    parser.add_argument("--fidelities", type=float, nargs="+", default=list(RacingSettings.fidelities))
    parser.add_argument("--confidence", type=float, default=RacingSettings.confidence)
    parser.add_argument("--checkpoint", type=Path, help="trained ResNet-20; trained and kept beside the results if missing")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/evaluation_throughput.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers: Numbers = json.loads(options.results.read_text()) if options.results.exists() else {}
    numbers["versions"] = {name: version(name) for name in ("torch", "torchvision", "torch-pruning")}
    for part in options.parts:
        start = time.perf_counter()
        numbers[part] = PARTS[part](options, lambda text: print(text, flush=True))
        write_json(options.results, numbers)
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
    print(table(numbers))


if __name__ == "__main__":
    main()
