"""One-shot pruning side by side: nothing is trained after the checkpoint, and no label is read.

    python -m benchmarks.one_shot --data FOLDER [--models resnet20 vgg_small mobilenet_v2_small] [--seeds 3] [--passes 200000]

Every row starts from the same checkpoint and meets the same MACs target. ``evolution`` and what it is compared with come from
one run of the product each, whose baselines are the uniform ratio, the integer program over the level table, and random levels
at as many image passes as the search had; with the layers solved by least squares (``reconstructed``), and without. Peers are
Torch-Pruning (group L2, the same ratio everywhere, statistics of BatchNorm measured again) and ridge regression on channel
Gram matrices, folded into the layers that read them (GRAIL, CPAL 2026: ridge 1e-3 of the mean diagonal, 128 samples), with the
statistics of BatchNorm as they were, and measured again. ``evolution`` with its default number of generations is a row of its
own for a ResNet-20 at 22 and 10 %, unless ``--passes`` asks for less than the default. The CPU seconds of a row are those of
its whole run, baselines included; the first run on a checkpoint measures the tables of levels for all.

Torch-Pruning comes with ``uv sync --group benchmarks``. Every run is a run folder under ``--results``; a killed benchmark goes
on in it, and what is done is not computed again. Prints mean and standard deviation over the seeds of test top-1, its distance
from the checkpoint, and the paired lead over the uniform ratio of the same kind, with an asterisk where it is more than two
standard errors; writes ``one_shot.json`` beside the runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.channel_gram import folded_uniform
from benchmarks.pruning_bench import CPU, Bench, Sizes
from benchmarks.pruning_cells import spread
from evaluators.batch_norm import recalibrate
from evaluators.cost import count_costs
from evaluators.tasks.measure import measure
from search.algorithms.evolution import EvolutionSettings
from search.config.document import to_yaml
from search.config.loading import load
from search.output.atomic import write_json
from search.pipeline.pipeline import run
from search.run.search_tables import SearchTables

TARGETS = {"resnet20": (0.4, 0.22, 0.1, 0.05), "vgg_small": (0.3, 0.1), "mobilenet_v2_small": (0.5, 0.25)}
PASSES = 200_000
"""Images that a search may measure candidates on, by default."""
GENETIC = {("resnet20", 0.22), ("resnet20", 0.1), ("vgg_small", 0.1), ("mobilenet_v2_small", 0.25)}
"""Where the genetic search over masks, and random levels, are run too."""
DEFAULTS = {("resnet20", 0.22), ("resnet20", 0.1)}
"""Where evolution is run with its default number of generations, too."""
QUICK = Sizes(train=2048, search=256, pretraining=2, epochs=0, sparse=0)
"""Sizes to try the benchmark itself: as little training as lifts every checkpoint well above chance."""
QUICK_LEVELS = {"steps": 4, "images": 64, "divergence_images": 16}
"""Levels for the same."""
PEERS = ("Torch-Pruning group L2, local", "channel Gram ridge (GRAIL)", "channel Gram ridge, statistics measured again")


@dataclass(frozen=True)
class Case:
    """A checkpoint and a target.

    Attributes:
        bench: Model, seed, sizes, data and folder.
        target: Share of the checkpoint's MACs.
        quick: Tiny sizes, to try the benchmark itself.
        passes: Images that a search may measure candidates on.
    """

    bench: Bench[Sizes]
    target: float
    quick: bool
    passes: int = PASSES

    def searches(self) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """Yield name of the row, block of the algorithm, and whether random levels stand beside it."""
        place = self.bench.model, self.target
        if self.quick:
            yield "evolution", {"name": "evolution", "children": 4, "generations": 1, "steps": [[16, 2], [32, 1]]}, True
            return
        usual = EvolutionSettings()
        generations = max(1, int(self.passes / (usual.passes * usual.steps[-1][0])))
        yield "evolution", {"name": "evolution", "generations": generations}, place in GENETIC
        if place in GENETIC:
            evaluations = max(1, self.passes // 1024)
            yield "genetic", {"name": "genetic", "population": 20, "generations": None, "evaluations": evaluations}, False
        if place in DEFAULTS and self.passes >= PASSES:
            yield "evolution, by default", {"name": "evolution"}, False


def compute(case: Case) -> list[dict[str, Any]]:
    """Return the rows of a case, each with its test top-1, MACs and seconds."""
    bench = case.bench
    task = bench.task()
    reference = bench.reference(task)
    dense = bench.reference_top1(task, reference)
    found = []
    for name in PEERS:
        path = bench.folder / f"{bench.model}-{bench.seed}-{case.target:g}-{name.replace(', ', '-').replace(' ', '-')}.json"
        if not path.exists():
            start = time.process_time()
            top1, macs = _peer(name, case)
            write_json(path, _row(case, name, top1, macs, dense, time.process_time() - start))
        found.append(json.loads(path.read_text()))
    for name, algorithm, random in case.searches():
        for solved in (True, False):
            words = f"{bench.model}-{bench.seed}-{case.target:g}-{name.replace(', ', '-').replace(' ', '-')}-{solved}"
            path = bench.folder / f"{words}.json"
            if not path.exists():
                start = time.process_time()
                baselines = [*(["uniform", "integer_program"] if name == "evolution" else []), *(["random"] if random else [])]
                report = run_search(case, words, algorithm, solved, baselines)
                ending, seconds = ", reconstructed" if solved else "", time.process_time() - start
                rows = {name: report["result"], **report["baselines"]}
                made = [_row(case, role + ending, row["top1"], row["macs"], dense, seconds) for role, row in rows.items()]
                write_json(path, {"rows": made})
            found += json.loads(path.read_text())["rows"]
    return found


def _row(case: Case, name: str, top1: float, macs: float, dense: float, seconds: float) -> dict[str, Any]:
    bench = case.bench
    shared = {"model": bench.model, "seed": bench.seed, "target": case.target, "row": name}
    return {**shared, "test_top1": top1, "macs": macs, "reference_test_top1": dense, "cpu_seconds": seconds}


def run_search(case: Case, name: str, algorithm: Mapping[str, Any], solved: bool, baselines: Sequence[str]) -> dict[str, Any]:
    """Return the report of one search by divergence, gone on with where it was begun.

    Args:
        case: Checkpoint and target.
        name: Name of the run folder.
        algorithm: Block of the algorithm.
        solved: Whether layers are solved by least squares.
        baselines: Names of the baselines beside it.
    """
    bench = case.bench
    search = {
        "space": {"name": "channel_mask", **({"levels": QUICK_LEVELS} if case.quick else {})},
        "algorithm": dict(algorithm),
        "evaluate": [{"divergence": {"samples": 32, "pool": 256} if case.quick else {}}, "cost"],
        "objectives": {"divergence": "minimize"},
        "target": {"macs": f"<= {100 * case.target:g}%"},
        "reconstruct": {"images": 48 if case.quick else 768} if solved else False,
        "baselines": list(baselines),
    }
    return run_stages(bench, name, [{"search": search}])


def run_stages(
    bench: Bench[Sizes], name: str, stages: list[dict[str, Any]], earlier: str | None = None, alone: bool = False
) -> dict[str, Any]:
    """Return the report of a run of the product on a checkpoint, gone on with where it was begun.

    Tables of levels that another run on the checkpoint has measured with the same settings are taken over, or all steps of
    ``earlier`` that are the same.

    Args:
        bench: Model, seed, sizes, data and folder.
        name: Name of the run folder.
        stages: The pipeline, as in a configuration.
        earlier: Name of another run folder; None for none.
        alone: Nothing of another run is taken over.
    """
    checkpoint = bench.checkpoint_path.resolve()
    model = {"factory": f"spaces.networks.{bench.model}", "arguments": {"in_channels": 1, "classes": 10}}
    data = {
        "name": "fashion_mnist",
        "root": bench.data,
        "search_size": bench.sizes.search,
        "train_size": bench.sizes.train,
    }
    config = {
        "name": name,
        "seed": bench.seed,
        "task": {"model": {**model, "checkpoint": str(checkpoint)}, "data": data},
        "stages": stages,
    }
    path = bench.folder / f"{name}.yaml"
    path.write_text(to_yaml(config))
    runs = bench.folder / "runs"
    if earlier is not None:
        return run(load(path), runs / name, earlier=runs / earlier)
    others = [] if alone else sorted(one for one in runs.glob(f"{bench.model}-{bench.seed}-*") if one.name != name)
    return run(load(path), runs / name, tables=SearchTables(others, "0-search") if others else None)


def _peer(name: str, case: Case) -> tuple[float, float]:
    """Return test top-1 and MACs of a peer's network."""
    model, task = peer_network(name, case.bench, case.target), case.bench.task()
    return measure(model, task, "test")["top1"], count_costs(model, task.example_inputs())["macs"]


def peer_network(name: str, bench: Bench[Sizes], target: float) -> nn.Module:
    """Return a peer's network at a share ``target`` of the checkpoint's MACs."""
    import torch_pruning as tp

    from benchmarks.torch_pruning_peers import prune_to

    task = bench.task()
    reference, inputs = bench.reference(task), task.example_inputs()
    limit = count_costs(reference, inputs)["macs"] * target
    if name == PEERS[0]:
        model = prune_to(reference, inputs, limit, lambda: tp.importance.GroupMagnitudeImportance(p=2), False)
    else:
        model = folded_uniform(task, reference, limit)
    if name != PEERS[1]:
        recalibrate(model, task.batches("train", 256, limit=2048), task.forward, CPU)
    return model


def table(results: list[dict[str, Any]]) -> str:
    """Return test top-1 by model, target and row, its distance from the checkpoint and the lead over uniform, in points."""
    lines = []
    for model, target in dict.fromkeys((result["model"], result["target"]) for result in results):
        own = [result for result in results if (result["model"], result["target"]) == (model, target)]
        dense = {r["seed"]: 100 * r["reference_test_top1"] for r in own}
        lines.append(f"\n{model} at {target:.0%} of the MACs; the checkpoint has {spread(list(dense.values()))}")
        lines.append(f"{'test top-1 in %, nothing trained':44}{'':>16}{'from dense':>16}{'ahead of uniform':>20}")
        for row in dict.fromkeys(r["row"] for r in own):
            found = {r["seed"]: r for r in own if r["row"] == row}
            base = "uniform, reconstructed" if row.endswith(", reconstructed") else "uniform"
            uniform = {r["seed"]: r for r in own if r["row"] == base}
            tops = [100 * r["test_top1"] for r in found.values()]
            distance = [100 * (r["test_top1"] - r["reference_test_top1"]) for r in found.values()]
            leads = [100 * (r["test_top1"] - uniform[seed]["test_top1"]) for seed, r in found.items() if seed in uniform]
            lead = "" if row == base else spread(leads) + (" *" if clear(leads) else "  ")
            lines.append(f"{row:44}{spread(tops):>16}{spread(distance):>16}{lead:>20}")
    return "\n".join(lines)


def clear(leads: list[float]) -> bool:
    """Return whether the mean is more than two standard errors from 0."""
    if len(leads) < 2:
        return False
    return bool(abs(statistics.fmean(leads)) > 2.0 * statistics.stdev(leads) / math.sqrt(len(leads)))


def arguments(text: str, results: str) -> argparse.ArgumentParser:
    """Return a parser of the options that benchmarks of untrained networks share.

    Args:
        text: The benchmark's description.
        results: Default folder of the runs.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SECATEURS_DATA", "data"), help="folder that holds FashionMNIST/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12, help="of the training behind the checkpoint")
    parser.add_argument("--train-size", type=int, default=55_000, help="its images")
    parser.add_argument("--passes", type=int, default=PASSES, help="images that a search may measure candidates on")
    parser.add_argument("--results", type=Path, default=Path(results), help="folder of the runs")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the benchmark itself")
    return parser


def begin(options: argparse.Namespace) -> Sizes:
    """Return the sizes asked for; make the folder of the runs, and compute in one thread."""
    torch.set_num_threads(1)
    options.results.mkdir(parents=True, exist_ok=True)
    if options.quick:
        return QUICK
    return Sizes(train=options.train_size, search=5000, pretraining=options.epochs, epochs=0, sparse=0)


def main() -> None:
    parser = arguments(__doc__, "benchmarks/results/one_shot")
    parser.add_argument("--models", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--targets", type=float, nargs="+", help="those of every model, by default")
    options = parser.parse_args()
    sizes = begin(options)
    results: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for model in options.models:
            bench = Bench(model, seed, sizes, options.data, options.results)
            for target in options.targets or TARGETS[model]:
                for row in compute(Case(bench, target, options.quick, options.passes)):
                    results.append(row)
                    place = f"{row['model']} seed {row['seed']} at {row['target']:g}"
                    print(f"{place}: {row['row']}: test {100 * row['test_top1']:.2f}", flush=True)
    print(table(results))
    write_json(options.results.with_suffix(".json"), {"sizes": vars(sizes), "passes": options.passes, "cells": results})


if __name__ == "__main__":
    main()
