"""The map of where a search pays: ways to prune at equal MACs, untrained and after a few epochs, beside the uniform ratio.

    python -m benchmarks.where_search_pays --data FOLDER [--models resnet20 ...] [--targets 0.05 ...] [--epochs-after 0 1 4]
        [--rows uniform evolution ...]

Every row starts from the same checkpoint and meets the same MACs target: Torch-Pruning (L2, the same ratio everywhere), the
uniform ratio, the integer program over the level table, random levels at as many image passes as a search has, ``genetic`` over
masks, ``evolution`` of levels, the same with finalists that train (8, to steps 50, 100 and 200 of the training), and iterative
pruning (prune, train, prune: an epoch behind every search, all with the same factor, and as many image passes in all; an epoch
is not divided, so that it needs two at least). All but Torch-Pruning are solved by least squares; ``uniform, channel averages``
is the uniform ratio with its reading layers corrected instead. Rows are then trained alike, with distillation from the
checkpoint. A ResNet-56 has the rows uniform, random and ``evolution`` only.

A search is run once per checkpoint and target, and taken over by the runs that train behind it; one with finalists begins the
training itself, and is run for each. Every run is a run folder and each of Torch-Pruning's a file under ``--results``; a killed
benchmark goes on there, and what is done is not computed again; other passes or sizes need another folder. Prints mean and
standard deviation over the seeds of test top-1, the paired difference to the uniform ratio with its standard error (an asterisk
where it is more than two of them), and the rank correlation of what searches go by with test top-1 over the rows; writes
``where_search_pays.json`` beside the folder.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.one_shot import PEERS, QUICK_LEVELS, arguments, begin, clear, peer_network, run_stages
from benchmarks.pruning_bench import CPU, PEAK_LR, Bench, Sizes
from benchmarks.pruning_cells import spread
from evaluators.cost import count_costs
from evaluators.tasks.measure import measure
from evaluators.training.loop import train
from search.algorithms.evolution import EvolutionSettings
from search.output.atomic import write_json

TARGETS = {
    "resnet20": (0.4, 0.22, 0.1, 0.05),
    "vgg_small": (0.2, 0.05),
    "mobilenet_v2_small": (0.2, 0.05),
    "resnet56": (0.05,),
}
BRIEF = ("resnet56",)
"""Networks that have three rows only."""
UNIFORM = "uniform"
BASELINES = (UNIFORM, "integer_program", "random")
AVERAGED = "uniform, channel averages"
ROWS = (PEERS[0], *BASELINES, "evolution", "genetic", AVERAGED, "evolution, finalists", "iterative")


@dataclass(frozen=True)
class Case:
    """A checkpoint, a target, and epochs behind it.

    Attributes:
        bench: Model, seed, sizes of the checkpoint, data and folder.
        target: Share of the checkpoint's MACs.
        epochs: Epochs that every row is trained for.
        images: Training images of these.
        passes: Images that a search may measure candidates on.
        quick: Tiny sizes, to try the benchmark itself.
        wanted: Rows that are computed beside uniform and ``evolution``.
    """

    bench: Bench[Sizes]
    target: float
    epochs: int
    images: int
    passes: int
    quick: bool
    wanted: tuple[str, ...] = ROWS

    @property
    def own(self) -> Bench[Sizes]:
        """The same with the training images of the rows."""
        return dataclasses.replace(self.bench, sizes=dataclasses.replace(self.bench.sizes, train=self.images))

    def name(self, row: str, epochs: int | None = None) -> str:
        """Return the name of the run folder of a row, or of a file."""
        words = row.replace(",", "").replace(" ", "-")
        return f"{self.bench.model}-{self.bench.seed}-{self.target:g}-{words}-{self.epochs if epochs is None else epochs}"

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield name and settings, beside space, goals and target, of every search; its baselines are rows of their own."""
        for name, row in self._every_row():
            if name in self.wanted or name == "evolution":
                yield name, row

    def _every_row(self) -> Iterator[tuple[str, dict[str, Any]]]:
        brief = self.bench.model in BRIEF
        evolution = self.evolution(self.passes)
        beside = [one for one in BASELINES if one in (UNIFORM, *self.wanted) and not (brief and one == "integer_program")]
        yield "evolution", {**evolution, "baselines": beside}
        if brief:
            return
        evaluations = max(4, self.passes // 1024)
        genetic = {"name": "genetic", "population": 4 if self.quick else 20, "generations": None, "evaluations": evaluations}
        yield "genetic", {"algorithm": genetic}
        averaged = {"algorithm": {"name": "random", "evaluations": 1}, "reconstruct": False, "baselines": [UNIFORM]}
        yield AVERAGED, averaged
        if self.epochs:
            steps = [2, 4] if self.quick else [50, 100, 200]
            yield "evolution, finalists", {**evolution, "finalists": {"count": 2 if self.quick else 8, "steps": steps}}
        if self.epochs > 1:
            shares = [self.target ** (number / self.epochs) for number in range(1, self.epochs)]
            limits = [f"{100 * share:.6g}%" for share in (*shares, self.target)]
            yield "iterative", {**self.evolution(self.passes // self.epochs), "iterations": limits}

    def evolution(self, passes: int) -> dict[str, Any]:
        """Return the algorithm ``evolution`` for so many image passes, from the integer program's levels among others."""
        steps = ((16, 2), (32, 1)) if self.quick else EvolutionSettings().steps
        shape = EvolutionSettings(children=4, steps=steps) if self.quick else EvolutionSettings()
        generations = max(1, int(passes / (shape.passes * steps[-1][0])))
        sized = {"children": shape.children, "steps": [list(step) for step in steps]}
        return {"algorithm": {"name": "evolution", "generations": generations, "integer_program": True, **sized}}

    def stages(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the pipeline of a row."""
        levels = {"levels": QUICK_LEVELS} if self.quick else {}
        compensate = "channel" if row.get("reconstruct", True) is False else False
        search = {
            "space": {"name": "channel_mask", "compensate": compensate, **levels},
            "evaluate": [{"divergence": {"samples": 32, "pool": 256} if self.quick else {}}, "cost"],
            "objectives": {"divergence": "minimize"},
            "target": {"macs": f"<= {100 * self.target:.6g}%"},
            "reconstruct": {"images": 48 if self.quick else 768},
            **row,
        }
        trained = [{"retrain": self.retrain(1 if "iterations" in row else self.epochs)}] if self.epochs else []
        return [{"search": search}, *trained]

    def retrain(self, epochs: int) -> dict[str, Any]:
        """Return the settings of a training of so many epochs, that of :meth:`.Bench.training` with distillation."""
        training = self.own.training(epochs, PEAK_LR, distilled=True)
        return {
            "epochs": epochs,
            "batch_size": training.batch_size,
            "optimizer": {name: getattr(training.optimizer, name) for name in ("name", "lr", "momentum", "weight_decay")},
            "distillation": {"weight": 0.5, "temperature": 4.0},
        }


def compute(case: Case) -> list[dict[str, Any]]:
    """Return the rows of a case, each with its test top-1, MACs, the divergence that searches go by, and CPU seconds."""
    found = []
    dense = case.bench.reference_top1(case.bench.task(), case.bench.reference(case.bench.task()))
    shared = {"model": case.bench.model, "seed": case.bench.seed, "target": case.target, "epochs": case.epochs}
    if case.bench.model not in BRIEF and PEERS[0] in case.wanted:
        found.append({**shared, **peer(case), "reference_test_top1": dense})
    for name, row in case.rows():
        start = time.process_time()
        # What trains in between or within the search is another search.
        again = case.epochs and "finalists" not in row and "iterations" not in row
        if again:
            untrained = dataclasses.replace(case, epochs=0)
            run_stages(case.own, untrained.name(name), untrained.stages(row))
        earlier = case.name(name, 0) if again else None
        report = run_stages(case.own, case.name(name), case.stages(row), earlier)
        seconds = time.process_time() - start
        result = {**report["result"], "before_retraining": report["searches"][-1]["metrics"]}
        own = {AVERAGED: report["baselines"][UNIFORM]} if name == AVERAGED else {name: result, **report["baselines"]}
        for role, one in own.items():
            numbers = {"test_top1": one["top1"], "macs": one["macs"], "cpu_seconds": seconds}
            divergence = None if "iterations" in row else one["before_retraining"]["divergence"]
            found.append({**shared, "row": role, **numbers, "divergence": divergence, "reference_test_top1": dense})
    return found


def peer(case: Case) -> dict[str, Any]:
    """Return Torch-Pruning's row, from its file where it is there."""
    path = case.bench.folder / f"{case.name(PEERS[0])}.json"
    if not path.exists():
        start, task, own = time.process_time(), case.own.task(), case.own
        reference = case.bench.reference(task)
        model = peer_network(PEERS[0], own, case.target)
        if case.epochs:
            settings = own.training(case.epochs, PEAK_LR, distilled=True)
            checkpoint = own.epochs_of(path)
            teacher = copy.deepcopy(reference)
            train(model, task, settings, seed=own.seed, device=CPU, teacher=teacher, checkpoint=checkpoint)
            checkpoint.path.unlink(missing_ok=True)
        numbers = {"test_top1": measure(model, task, "test")["top1"], "macs": count_costs(model, task.example_inputs())["macs"]}
        write_json(path, {"row": PEERS[0], **numbers, "divergence": None, "cpu_seconds": time.process_time() - start})
    return dict(json.loads(path.read_text()))


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return test top-1 and the paired difference to uniform by row, and the rank correlation, of every case."""
    lines = []
    for model, target, epochs in dict.fromkeys((one["model"], one["target"], one["epochs"]) for one in results):
        own = [one for one in results if (one["model"], one["target"], one["epochs"]) == (model, target, epochs)]
        dense = {one["seed"]: 100 * one["reference_test_top1"] for one in own}
        place = f"{model} at {target:.0%} of the MACs, {epochs} epochs behind"
        lines.append(f"\n{place}; the checkpoint has {spread([*dense.values()])}")
        lines.append(f"{'test top-1 in %':36}{'':>16}{'to uniform':>18}{'CPU s':>10}")
        uniform = {one["seed"]: one["test_top1"] for one in own if one["row"] == UNIFORM}
        for row in dict.fromkeys(one["row"] for one in own):
            found = [one for one in own if one["row"] == row]
            leads = [100 * (one["test_top1"] - uniform[one["seed"]]) for one in found if one["seed"] in uniform]
            lead = "" if row == UNIFORM else f"{_with_error(leads)}{' *' if clear(leads) else '  '}"
            top1, seconds = spread([100 * one["test_top1"] for one in found]), max(one["cpu_seconds"] for one in found)
            lines.append(f"{row:36}{top1:>16}{lead:>18}{seconds:>10.0f}")
        ranks = [value for seed in dense if (value := correlation([one for one in own if one["seed"] == seed])) is not None]
        lines.append(f"rank correlation of low divergence and test top-1 over the rows, by seed: {spread(ranks)}")
    return "\n".join(lines)


def correlation(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return Spearman's rank correlation of low divergence and top-1 over rows; None where fewer than three have both."""
    pairs = [(-one["divergence"], one["test_top1"]) for one in rows if one["divergence"] is not None]
    if len(pairs) < 3:
        return None
    ranks = [_ranks(values) for values in zip(*pairs, strict=True)]
    found = float(np.corrcoef(np.stack(ranks))[0, 1]) if all(rank.std() > 0 for rank in ranks) else math.nan
    return found if math.isfinite(found) else None


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Return the rank of every value, the mean of their ranks for equal ones."""
    array = np.asarray(values)
    return np.asarray([(array < value).sum() + (array == value).sum() / 2 for value in array], dtype=np.float64)


def _with_error(leads: Sequence[float]) -> str:
    """Return the mean and its standard error as text."""
    if not leads:
        return "-"
    error = f"{statistics.stdev(leads) / math.sqrt(len(leads)):.2f}" if len(leads) > 1 else "-"
    return f"{statistics.fmean(leads):+.2f} ± {error}"


def main() -> None:
    parser = arguments(__doc__, "benchmarks/results/where_search_pays")
    parser.add_argument("--models", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--targets", type=float, nargs="+", help="those of every model, by default")
    parser.add_argument("--epochs-after", type=int, nargs="+", default=[0, 1, 4], help="epochs that the rows are trained for")
    parser.add_argument("--images", type=int, default=20_000, help="training images of these")
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS, help="beside uniform and evolution")
    options = parser.parse_args()
    sizes = begin(options)
    images = sizes.train if options.quick else options.images
    passes = 200 if options.quick else options.passes
    results: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for model in options.models:
            bench = Bench(model, seed, sizes, options.data, options.results)
            for target in options.targets or TARGETS[model]:
                for epochs in options.epochs_after:
                    for row in compute(Case(bench, target, epochs, images, passes, options.quick, tuple(options.rows))):
                        results.append(row)
                        place = f"{model} seed {seed} at {target:g}, {epochs} epochs"
                        print(f"{place}: {row['row']}: test {100 * row['test_top1']:.2f}", flush=True)
    print(table(results))
    sized = {"sizes": vars(sizes), "images": images, "passes": passes}
    write_json(options.results.with_suffix(".json"), {**sized, "cells": results})


if __name__ == "__main__":
    main()
