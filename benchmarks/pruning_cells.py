"""Cells of a pruning benchmark: a row at a target for a model and a seed, computed once and kept in a file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.pruning_bench import Bench, Row, S
from evaluators.cost import count_costs
from search.output.atomic import write_json
from spaces.registry import resolve

DENSE = "dense"
"""How the names of rows begin that prune nothing, and have one cell for all targets."""


@dataclass(frozen=True)
class Plan:
    """A benchmark: which rows at which targets.

    Attributes:
        name: The benchmark's name, and that of its summary.
        rows: Import path of the rows, by name.
        targets: Shares of the checkpoint's MACs, or what else the benchmark's cells mean by a target.
        only: Targets of the rows that don't have them all.
        once: Rows that have the first seed only.
    """

    name: str
    rows: str
    targets: tuple[float, ...]
    only: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    once: tuple[str, ...] = ()

    def targets_of(self, row: str) -> tuple[float, ...]:
        """Return the targets that a row has a cell for."""
        return (1.0,) if row.startswith(DENSE) else self.only.get(row, self.targets)

    def row(self, name: str) -> Row:
        """Return the row called ``name``."""
        row: Row = resolve(self.rows)[name]
        return row


@dataclass(frozen=True)
class Cell:
    """One row at one target for one model and seed."""

    plan: Plan
    bench: Bench[Any]
    row: str
    target: float

    @property
    def path(self) -> Path:
        words = "".join(letter if letter.isalnum() else "-" for letter in self.row).strip("-")
        return self.bench.folder / f"{self.bench.model}-{self.bench.seed}-{words}-{self.target:g}.json"


def read(cell: Cell) -> dict[str, Any] | None:
    """Return what a cell's file holds, None where there is none."""
    return json.loads(cell.path.read_text()) if cell.path.exists() else None


def compute(cell: Cell) -> dict[str, Any]:
    """Return a cell's numbers, from its file where it has one."""
    found = read(cell)
    if found is not None:
        return found
    start, used = time.perf_counter(), time.process_time()
    bench, task = cell.bench, cell.bench.task()
    reference = bench.reference(task)
    baseline = count_costs(reference, task.example_inputs())["macs"]
    model, epochs = cell.plan.row(cell.row)(bench, task, reference, baseline * cell.target, cell.path)
    pruned = time.perf_counter() - start
    numbers = bench.finish(task, model, reference, epochs, cell.path)
    result: dict[str, Any] = {
        "model": bench.model,
        "seed": bench.seed,
        "row": cell.row,
        "target": cell.target,
        "macs_share": numbers["macs"] / baseline,
        "reference_test_top1": bench.reference_top1(task, reference),
        "pruning_seconds": pruned,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - used,
        **numbers,
    }
    write_json(cell.path, result)
    return result


def table(plan: Plan, results: list[dict[str, Any]]) -> str:
    """Return mean and standard deviation over the seeds, in percent, by model, row and target.

    Beside test top-1 stands what the network scored on the search split before it was trained again; behind the MACs stand, by
    target, thousands of parameters, and the share of the checkpoint's task relevance that the network has.
    """
    lines = []
    for model in dict.fromkeys(result["model"] for result in results):
        own = [result for result in results if result["model"] == model]
        lines.append(f"\n{model}: mean ± standard deviation over {len({r['seed'] for r in own})} seeds")
        heads = [f"{target:.0%} of MACs" for target in plan.targets]
        columns = "".join(f"{head:>18}{'before training':>18}" for head in heads)
        lines.append(f"{'test top-1 in %':52}{columns}{'MACs':>14}{'parameters, k':>16}{'relevance':>14}")
        for row in dict.fromkeys(result["row"] for result in sorted(own, key=lambda r: _position(plan, r))):
            cells, shares, parameters, relevance = [], [], [], []
            for target in plan.targets:
                found = [r for r in own if r["row"] == row and r["target"] in (target, 1.0)]
                shares += [f"{statistics.fmean(r['macs_share'] for r in found):.3f}"] if found else []
                parameters += [f"{statistics.fmean(r['parameters'] for r in found) / 1e3:.1f}"] if found else []
                kept = [r["retained_relevance"] for r in found if "retained_relevance" in r]
                relevance += [f"{statistics.fmean(kept):.2f}"] if kept else []
                cells += [spread([100 * r[name] for r in found]) for name in ("test_top1", "search_top1_before")]
            counts = f"{' '.join(shares):>14}{' '.join(parameters):>16}{' '.join(relevance):>14}"
            lines.append(f"{row:52}" + "".join(f"{cell:>18}" for cell in cells) + counts)
        dense = {r["seed"]: 100 * r["reference_test_top1"] for r in own}
        lines.append(f"the checkpoint itself: {spread(list(dense.values()))}")
    return "\n".join(lines)


def _position(plan: Plan, result: dict[str, Any]) -> int:
    return list(resolve(plan.rows)).index(result["row"])


def spread(values: list[float]) -> str:
    """Return mean and standard deviation as text."""
    if not values:
        return "-"
    spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else "-"
    return f"{statistics.fmean(values):.2f} ± {spread}"


def arguments(description: str | None, plan: Plan) -> argparse.ArgumentParser:
    """Return a parser of the options that every pruning benchmark has."""
    rows = list(resolve(plan.rows))
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SECATEURS_DATA", "data"), help="folder that holds FashionMNIST/")
    parser.add_argument("--models", nargs="+", default=["resnet20", "vgg_small"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=rows, choices=rows)
    parser.add_argument("--targets", type=float, nargs="+", default=list(plan.targets), help="of the rows that have several")
    parser.add_argument("--workers", type=int, default=2, help="processes of one torch thread each")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results") / plan.name, help="folder of the cells")
    parser.add_argument("--images", type=int, help="training images, where a small machine can't afford all")
    parser.add_argument("--epochs", type=int, help="epochs after the checkpoint, for the same reason")
    parser.add_argument("--batch", type=int, help="images of a step after the checkpoint; the learning rate follows")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the benchmark itself")
    return parser


def sized(sizes: S, options: argparse.Namespace) -> S:
    """Return ``sizes`` with what the options ``--images``, ``--epochs`` and ``--batch`` say."""
    said = {"train": options.images, "epochs": options.epochs, "batch": options.batch}
    return dataclasses.replace(sizes, **{name: value for name, value in said.items() if value is not None})


def run(
    plan: Plan,
    benches: Sequence[Bench[Any]],
    options: argparse.Namespace,
    compute: Callable[[Cell], dict[str, Any]] = compute,
    table: Callable[[Plan, list[dict[str, Any]]], str] = table,
) -> None:
    """Compute every cell that has no file yet, print the table and write ``NAME.json`` beside their folder."""
    options.results.mkdir(parents=True, exist_ok=True)
    cells = [
        Cell(plan, bench, row, target)
        for bench in benches
        for row in options.rows
        if bench.seed == 0 or row not in plan.once
        for target in plan.targets_of(row)
        if target in (*options.targets, 1.0)
    ]
    results: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers, get_context("spawn"), initializer=_quiet) as pool:
        list(pool.map(_checkpoint, benches))
        for done in as_completed([pool.submit(compute, cell) for cell in cells]):
            result = done.result()
            results.append(result)
            print(
                f"{len(results)}/{len(cells)} {result['model']} seed {result['seed']} {result['row']} at {result['target']:g}: "
                f"test {100 * result['test_top1']:.2f} ({result['seconds']:.0f} s)",
                flush=True,
            )
    print(table(plan, results))
    sizes = dataclasses.asdict(benches[0].sizes)
    summary = {"sizes": sizes, "cells": sorted(results, key=lambda r: json.dumps(r, sort_keys=True))}
    options.results.with_suffix(".json").write_text(json.dumps(summary, indent=1))


def _quiet() -> None:
    torch.set_num_threads(1)


def _checkpoint(bench: Bench[Any]) -> None:
    bench.reference(bench.task())
